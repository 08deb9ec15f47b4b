//! What runs a VM's processors: an engine's name, with options behind commas, as `translate,cache=64M`.

use crate::size;

/// Memory for translated code, in bytes, at least and at most.
pub const MIN_CACHE: u64 = 4 << 20;
pub const MAX_CACHE: u64 = 1 << 30;

/// An engine, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineChoice {
    /// `None` for the best there is.
    pub name: Option<String>,
    /// Bytes of memory for decoded and translated code; `None` for the engine's own choice.
    pub cache: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("\"{0}\" is not an engine's option: there is cache=SIZE, as in translate,cache=64M")]
    Unknown(String),
    #[error("cache is given twice")]
    Twice,
    #[error("cache={0}: the memory for translated code is 4M to 1G")]
    Cache(String),
    #[error("only the translate engine has a cache for translated code; {0} is none")]
    NoCache(String),
    #[error(transparent)]
    Size(#[from] size::Error),
}

impl EngineChoice {
    /// Reads `NAME`, `NAME,cache=SIZE` or `cache=SIZE`. Whether there is such an engine is not looked at.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut choice = Self::default();
        for (n, part) in text.split(',').enumerate() {
            match part.split_once('=') {
                None if n == 0 => choice.name = Some(part.to_string()),
                Some(("cache", value)) => {
                    let bytes = size::parse(value)?;
                    if !(MIN_CACHE..=MAX_CACHE).contains(&bytes) {
                        return Err(Error::Cache(value.to_string()));
                    }
                    if choice.cache.replace(bytes).is_some() {
                        return Err(Error::Twice);
                    }
                }
                _ => return Err(Error::Unknown(part.to_string())),
            }
        }
        let translates = |name: &str| name.split(':').next() == Some("translate");
        match &choice.name {
            Some(name) if choice.cache.is_some() && !translates(name) => Err(Error::NoCache(name.clone())),
            _ => Ok(choice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_name_and_cache() {
        let choice = |name: &str, cache| {
            let name = (!name.is_empty()).then(|| name.to_string());
            Ok(EngineChoice { name, cache })
        };
        assert_eq!(EngineChoice::parse("translate"), choice("translate", None));
        assert_eq!(EngineChoice::parse("translate:t0,cache=4M"), choice("translate:t0", Some(4 << 20)));
        assert_eq!(EngineChoice::parse("cache=1G"), choice("", Some(1 << 30)));
        assert_eq!(EngineChoice::parse("kvm"), choice("kvm", None));
    }

    #[test]
    fn parse_what_is_wrong_says_what() {
        for (text, says) in [
            ("translate,cache=3M", "4M to 1G"),
            ("translate,cache=2G", "4M to 1G"),
            ("translate,cache=", "not a size"),
            ("translate,cache=4M,cache=4M", "twice"),
            ("translate,fast", "cache=SIZE"),
            ("translate,", "cache=SIZE"),
            ("size=4M", "cache=SIZE"),
            ("kvm,cache=4M", "only the translate engine"),
        ] {
            let error = EngineChoice::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
