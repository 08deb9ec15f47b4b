//! Sizes: a number with B K M G T P E, powers of 1024, fractions allowed.

const MIB: u64 = 1 << 20;
/// What a VM gets when nothing is said, in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 512;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("\"{0}\" is not a size: write a number with B, K, M, G, T, P or E after it, as in 512M or 1.5G")]
    Malformed(String),
    #[error("the size {0} is larger than any machine can count: 16E is the limit")]
    TooLarge(String),
    #[error("{0} is too little memory: a VM needs at least 1M")]
    MemoryTooSmall(String),
}

/// Bytes of a size such as `512M`, `1.5G` or `4096`. Digits beyond a whole byte are dropped.
pub fn parse(text: &str) -> Result<u64, Error> {
    let malformed = || Error::Malformed(text.to_string());
    let body = text.trim();
    let (number, shift) = match body.char_indices().last().ok_or_else(malformed)? {
        (at, unit) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'B' => 0,
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                'P' => 50,
                'E' => 60,
                _ => return Err(malformed()),
            };
            (&body[..at], shift)
        }
        _ => (body, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(malformed());
    }
    let too_large = || Error::TooLarge(text.to_string());
    let units: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_large())? };
    // Eighteen decimals are more than a byte's share of an exbibyte; what follows can't change the result's bytes.
    let fraction = &fraction[..fraction.len().min(18)];
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        let numerator: u128 = fraction.parse().map_err(|_| malformed())?;
        (numerator << shift) / 10u128.pow(fraction.len() as u32)
    };
    let bytes = units.checked_mul(1 << shift).and_then(|b| b.checked_add(part)).ok_or_else(too_large)?;
    u64::try_from(bytes).map_err(|_| too_large())
}

/// Whole MiB of a VM's memory, rounded down; under 1M is an error.
pub fn parse_memory_mib(text: &str) -> Result<u64, Error> {
    match parse(text)? / MIB {
        0 => Err(Error::MemoryTooSmall(text.to_string())),
        mib => Ok(mib),
    }
}

/// A size for a column: the largest unit that leaves at least 1, one decimal where it is not whole, as `512M`, `1.5G`, `0B`.
pub fn format(bytes: u64) -> String {
    const UNITS: [char; 7] = ['B', 'K', 'M', 'G', 'T', 'P', 'E'];
    let unit = if bytes == 0 { 0 } else { (bytes.ilog2() / 10) as usize };
    let shift = 10 * unit as u32;
    // Tenths, rounded to the nearest; 1023.96K would print as 1024.0K and is left so.
    let tenths = ((u128::from(bytes) * 10) + ((1u128 << shift) >> 1)) >> shift;
    if unit == 0 || tenths.is_multiple_of(10) {
        format!("{}{}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("1K", 1024),
            ("1k", 1024),
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            (".5K", 512),
            ("2.", 2),
            ("15E", 15 << 60),
            ("0.0000000001G", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn parse_what_is_no_size_is_malformed() {
        for text in ["", " ", "M", ".", "1MM", "1Z", "-1M", "+1M", "1,5G", "0x10", "1.2.3K", "1é", "١M"] {
            assert!(matches!(parse(text), Err(Error::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn parse_beyond_64_bits_is_too_large() {
        for text in ["16E", "18446744073709551616", "99999999999999999999999999999999999999999999999E"] {
            assert!(matches!(parse(text), Err(Error::TooLarge(_))), "{text}");
        }
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn parse_very_long_fraction_is_bounded() {
        let long = format!("0.{}K", "9".repeat(10_000));
        assert_eq!(parse(&long), Ok(1023));
    }

    #[test]
    fn memory_is_rounded_down_to_whole_mib() {
        assert_eq!(parse_memory_mib("1.9M"), Ok(1));
        assert_eq!(parse_memory_mib("512M"), Ok(512));
        assert_eq!(parse_memory_mib("2G"), Ok(2048));
        assert!(matches!(parse_memory_mib("1023K"), Err(Error::MemoryTooSmall(_))));
        assert!(matches!(parse_memory_mib("512"), Err(Error::MemoryTooSmall(_))));
    }

    #[test]
    fn format_uses_the_largest_unit() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1K"), (1536, "1.5K"), (512 << 20, "512M"), (3 << 29, "1.5G")]
        {
            assert_eq!(format(bytes), text);
        }
        assert_eq!(format(u64::MAX), "16E");
    }
}
