"""A run as one HTML file that opens anywhere, offline: `page.write_report`."""
