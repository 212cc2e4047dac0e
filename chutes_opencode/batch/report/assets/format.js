// Numbers as people read them; numbers.py does the same for the page's fixed parts.

export const UNKNOWN = "–";

export const count = (number) => number.toLocaleString("en-US");

const two = (number) => String(number).padStart(2, "0");

export function seconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 1) {
    const milliseconds = Math.floor(value * 1000 + 0.5);
    if (milliseconds < 1000) return `${milliseconds} ms`;
  }
  const tenths = Math.floor(value * 10 + 0.5);
  if (tenths < 600) return `${Math.floor(tenths / 10)}.${tenths % 10} s`;
  const whole = Math.floor(value + 0.5);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function dollars(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value === 0) return "$0";
  if (value >= 0.995) {
    return "$" + value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  }
  if (value < 0.000001) return "<$0.000001";
  return "$" + value.toFixed(Math.max(1 - Math.floor(Math.log10(value)), 2));
}

export function moment(epoch) {
  return epoch ? new Date(epoch * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC" : UNKNOWN;
}
