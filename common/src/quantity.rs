//! Quantities of Kubernetes, such as `250m` and `1.5Gi`. Owns their reading.

/// Suffixes and their factors, longer ones first.
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// The value of an amount in cores or bytes; `None` if it is not a positive number.
#[must_use]
pub fn positive(text: &str) -> Option<f64> {
    usage(text).filter(|value| *value > 0.0)
}

/// The value of a usage in cores or bytes, which may be zero; `None` if it is not a number, or negative.
#[must_use]
pub fn usage(text: &str) -> Option<f64> {
    let text = text.trim();
    let suffix = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = suffix.unwrap_or((text, 1.0));
    // Not `inf` or `nan`, which Rust reads as numbers.
    let is_number = number.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '+');
    let value = number.parse::<f64>().ok().filter(|_| is_number)? * factor;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_api_conventions() {
        let cases = [
            ("250m", 0.25),
            ("2", 2.0),
            ("0.5", 0.5),
            ("1e3", 1000.0),
            ("12E2", 1200.0),
            ("100u", 1e-4),
            ("64Mi", 67_108_864.0),
            ("1.5Gi", 1_610_612_736.0),
            ("129M", 129e6),
            ("128974848", 128_974_848.0),
        ];
        for (text, expected) in cases {
            let found = positive(text).unwrap_or_else(|| panic!("{text}"));
            assert!((found - expected).abs() <= expected * 1e-12, "{text}: {found}");
        }
        for text in ["", "m", "-1", "-0", "inf", "nan", "1x", "Mi"] {
            assert_eq!((usage(text), positive(text)), (None, None), "{text}");
        }
        for text in ["0", "0m", "0.0Ki", "0n"] {
            assert_eq!((usage(text), positive(text)), (Some(0.0), None), "{text}");
        }
    }
}
