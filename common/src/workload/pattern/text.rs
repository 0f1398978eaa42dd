//! Parts of written patterns: ranges of rates and times.

use std::time::Duration;

use crate::time::Span;
use crate::workload::Rate;

/// `text` around the first `at`.
pub fn cut(text: &str, at: char) -> Result<(&str, &str), String> {
    text.split_once(at).ok_or_else(|| format!("`{text}` lacks `{at}`"))
}

/// A range of rates, `FROM..TO`.
pub fn range(text: &str) -> Result<(Rate, Rate), String> {
    let (from, to) = text.split_once("..").ok_or_else(|| format!("`{text}` is not a range of rates"))?;
    Ok((from.parse()?, to.parse()?))
}

/// A time within ten thousand years, so that sums of times cannot overflow.
pub fn time(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10_000 * 366 * 86_400);
    let time = text.trim().parse::<Span>()?.0;
    if time <= LONGEST { Ok(time) } else { Err(format!("`{text}` is longer than 10,000 years")) }
}

/// A time of at least a millisecond: shorter periods would have more edges than requests.
pub fn positive(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time >= Duration::from_millis(1) { Ok(time) } else { Err(format!("`{text}` is shorter than 1ms")) }
}
