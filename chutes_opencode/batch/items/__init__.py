"""Where items come from: files, rows and templates, checked before anything is spent."""
