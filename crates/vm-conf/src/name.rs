//! Names and numbers of VMs.

use std::fmt;

/// Longest name, in bytes.
pub const MAX_NAME: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a VM needs a name")]
    Empty,
    #[error(
        "\"{0}\" is not a VM's name: use letters, digits and . - _, with a letter first or a digit with a letter after it"
    )]
    Malformed(String),
    #[error("a VM's name is at most {MAX_NAME} characters long")]
    TooLong,
    #[error("{0} is a VM's number, not a name: a new VM needs a name")]
    Number(String),
}

/// A VM's name: letters, digits and `. - _`, not starting with punctuation, under 64 characters, not a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

impl VmName {
    pub fn new(text: &str) -> Result<Self, Error> {
        let first = text.bytes().next().ok_or(Error::Empty)?;
        if text.len() > MAX_NAME {
            return Err(Error::TooLong);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        if !first.is_ascii_alphanumeric() || !text.bytes().all(allowed) {
            return Err(Error::Malformed(text.to_string()));
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::Number(text.to_string()));
        }
        Ok(VmName(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a person points at a VM: a number is an id, everything else a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Id(u32),
    Name(VmName),
}

impl Target {
    pub fn parse(text: &str) -> Result<Self, Error> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Target::Id).map_err(|_| Error::Malformed(text.to_string()));
        }
        VmName::new(text).map(Target::Name)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Id(id) => write!(f, "{id}"),
            Target::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_letters_digits_and_punctuation_is_accepted() {
        for name in ["a", "web1", "my.vm-2_x", "9front", &"x".repeat(63)] {
            assert_eq!(VmName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn name_with_anything_else_is_refused() {
        assert_eq!(VmName::new(""), Err(Error::Empty));
        assert_eq!(VmName::new(&"x".repeat(64)), Err(Error::TooLong));
        for name in [".a", "-a", "_a", "a b", "a/b", "a\n", "naïve", "../x"] {
            assert!(matches!(VmName::new(name), Err(Error::Malformed(_))), "{name}");
        }
        assert!(matches!(VmName::new("12"), Err(Error::Number(_))));
    }

    #[test]
    fn target_number_is_an_id_everything_else_a_name() {
        assert_eq!(Target::parse("7"), Ok(Target::Id(7)));
        assert_eq!(Target::parse("7a"), Ok(Target::Name(VmName::new("7a").unwrap())));
        assert!(Target::parse("99999999999").is_err());
        assert!(Target::parse("").is_err());
    }
}
