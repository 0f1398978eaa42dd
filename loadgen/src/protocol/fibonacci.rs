//! Validation of Fibonacci replies. Owns parsing the reply and checking numbers of any length.

/// The Mersenne prime 2^61 - 1: long numbers are compared by their remainder.
const PRIME: u64 = (1 << 61) - 1;

/// Largest index whose number fits into a double; beyond it JavaScript prints `Infinity`.
const LAST_DOUBLE: u64 = 1_476;

/// Whether `message` has the form of vSwarm's Fibonacci replies: `fn: Fib: y = fib(x) | x: 10 y: 55 | runtime: python`.
pub fn is_reply(message: &str) -> bool {
    message.starts_with("fn: Fib:")
}

/// Checks that the reply's `y` is the Fibonacci number of its `x`, and that `x` is the requested one, if known.
pub fn validate(message: &str, asked: Option<u64>) -> Result<(), String> {
    let x = field(message, "x: ").ok_or_else(|| format!("no `x:` in `{}`", short(message)))?;
    let y = field(message, "y: ").ok_or_else(|| format!("no `y:` in `{}`", short(message)))?;
    let index = x.parse::<u64>().map_err(|_| format!("x = {}, must be a whole number", short(x)))?;
    if asked.is_some_and(|asked| asked != index) {
        return Err(format!("x = {index}, but {} was requested", asked.unwrap_or_default()));
    }
    let right = match digits(y) {
        Some(remainder) => remainder == fibonacci(index),
        // Go prints a double, and so does JavaScript for large numbers.
        None => y.parse::<f64>().is_ok_and(|y| close(y, index)),
    };
    if right { Ok(()) } else { Err(format!("y = {} is not the Fibonacci number of {index}", short(y))) }
}

fn field<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    // `y = fib(x)` precedes the fields, so the search begins after the first bar.
    let (_, fields) = message.split_once('|')?;
    let (_, rest) = fields.split_once(name)?;
    rest.split_whitespace().next()
}

/// Remainder of a decimal number of any length; `None` if it contains other characters than digits.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Eighteen digits per step: the product fits into 128 bits.
    let mut remainder = 0u64;
    for chunk in text.as_bytes().chunks(18) {
        let value = chunk.iter().fold(0u64, |value, byte| value * 10 + u64::from(byte - b'0'));
        let shifted = u128::from(remainder) * 10u128.pow(chunk.len() as u32) + u128::from(value);
        remainder = (shifted % u128::from(PRIME)) as u64;
    }
    Some(remainder)
}

/// Remainder of the Fibonacci number, by doubling: F(2k) = F(k)(2F(k+1) - F(k)), F(2k+1) = F(k)^2 + F(k+1)^2.
fn fibonacci(index: u64) -> u64 {
    let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64;
    let plus = |a: u64, b: u64| (a + b) % PRIME;
    let (mut a, mut b) = (0, 1);
    for bit in (0..u64::BITS - index.leading_zeros()).rev() {
        let even = times(a, plus(plus(b, b), PRIME - a));
        let odd = plus(times(a, a), times(b, b));
        (a, b) = if index >> bit & 1 == 0 { (even, odd) } else { (odd, plus(even, odd)) };
    }
    a
}

fn close(y: f64, index: u64) -> bool {
    if index > LAST_DOUBLE {
        return y == f64::INFINITY;
    }
    let (mut a, mut b) = (0.0f64, 1.0f64);
    for _ in 0..index {
        (a, b) = (b, a + b);
    }
    (y - a).abs() <= a * 1e-9
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(x: &str, y: &str) -> Result<(), String> {
        validate(&format!("fn: Fib: y = fib(x) | x: {x} y: {y} | runtime: test"), None)
    }

    /// The Fibonacci number of `index` in decimal digits, by long addition.
    fn schoolbook(index: usize) -> String {
        let (mut a, mut b) = (vec![0u8], vec![1u8]);
        for _ in 0..index {
            let mut sum = Vec::with_capacity(b.len() + 1);
            let mut carry = 0;
            for (place, larger) in b.iter().enumerate() {
                let digit = a.get(place).copied().unwrap_or(0) + larger + carry;
                sum.push(digit % 10);
                carry = digit / 10;
            }
            if carry > 0 {
                sum.push(carry);
            }
            (a, b) = (b, sum);
        }
        a.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
    }

    #[test]
    fn correct_numbers_of_any_length_are_valid() {
        for index in [0, 1, 2, 3, 10, 90, 93, 94, 100, 1_477, 5_000] {
            assert_eq!(reply(&index.to_string(), &schoolbook(index)), Ok(()), "{index}");
        }
    }

    #[test]
    fn a_single_wrong_digit_is_found() {
        let right = schoolbook(3_000);
        for place in [0, 10, right.len() - 1] {
            let mut wrong = right.clone().into_bytes();
            wrong[place] = if wrong[place] == b'9' { b'8' } else { wrong[place] + 1 };
            assert!(reply("3000", std::str::from_utf8(&wrong).expect("digits")).is_err());
        }
        assert!(reply("10", "56").is_err());
    }

    #[test]
    fn doubles_are_valid_within_their_precision() {
        assert_eq!(reply("10", "55.0"), Ok(()));
        assert_eq!(reply("100", "354224848179261900000.0"), Ok(()));
        assert_eq!(reply("100", "3.54224848179262e+20"), Ok(()));
        assert_eq!(reply("10000", "Infinity"), Ok(()));
        assert!(reply("100", "Infinity").is_err());
        assert!(reply("100", "3.5e+20").is_err());
    }

    #[test]
    fn text_other_than_numbers_is_invalid() {
        assert!(reply("NaN", "0").is_err());
        assert!(reply("10", "NaN").is_err());
        assert!(reply("-1", "1").is_err());
        assert!(validate("", None).is_err());
        assert!(validate("fn: Fib: y = fib(x)", None).is_err());
    }

    #[test]
    fn the_reply_must_be_for_the_requested_number() {
        let message = "fn: Fib: y = fib(x) | x: 10 y: 55 | runtime: python";
        assert_eq!(validate(message, Some(10)), Ok(()));
        assert!(validate(message, Some(11)).expect_err("other").contains("11"));
    }
}
