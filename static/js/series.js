// Figures for the curves: smoothing, formats, the tokens of the theme. No drawing here.

/** The present value of the custom property `--k-<name>`. */
export const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--k-${name}`).trim();

/** Exponential moving average with bias correction, as TensorBoard's; gaps stay gaps. `weight` in [0, 1). */
export function smooth(values, weight) {
  let mean = 0;
  let count = 0;
  return values.map((value) => {
    if (value == null) return null;
    mean = mean * weight + (1 - weight) * value;
    count += 1;
    return mean / (1 - weight ** count);
  });
}

export const thousands = (value) => Math.round(value).toLocaleString("en-US");

/** A figure with a real minus sign. */
export function figure(value, digits, signed = false) {
  if (value == null) return "–";
  const small = value !== 0 && Math.abs(value) < 10 ** -digits / 2;
  const text = small ? value.toExponential(1) : value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return (signed && value > 0 ? "+" : "") + text.replace("-", "\u2212");
}

/** Seconds since the start as "45 s", "12 min", "1 h 47". */
export function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")}`;
}
