//! Command names and their prefixes.

/// Every command of vmctl(8), in the order of its manual page.
pub const COMMANDS: [&str; 20] = [
    "completions",
    "console",
    "create",
    "help",
    "load",
    "log",
    "pause",
    "receive",
    "reload",
    "reset",
    "run",
    "send",
    "show",
    "start",
    "status",
    "stop",
    "unpause",
    "wait",
    "restore",
    "snapshot",
];

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no command \"{0}\"; vmctl --help lists them")]
    Unknown(String),
    #[error("\"{0}\" could be {1}")]
    Ambiguous(String, String),
}

/// The command that `text` names whole or by a unique prefix.
pub fn resolve(text: &str) -> Result<&'static str, Error> {
    if let Some(exact) = COMMANDS.iter().find(|c| **c == text) {
        return Ok(exact);
    }
    let meant: Vec<&str> =
        COMMANDS.iter().copied().filter(|c| !text.is_empty() && c.starts_with(text)).collect();
    match meant[..] {
        [one] => Ok(one),
        [] => Err(Error::Unknown(text.into())),
        [ref all @ .., last] => Err(Error::Ambiguous(text.into(), format!("{} or {last}", all.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_unique_prefix_is_its_command() {
        for (text, command) in [
            ("sta", Err(())),
            ("star", Ok("start")),
            ("stat", Ok("status")),
            ("sh", Ok("show")),
            ("cons", Ok("console")),
            ("w", Ok("wait")),
            ("u", Ok("unpause")),
            ("p", Ok("pause")),
            ("status", Ok("status")),
        ] {
            assert_eq!(resolve(text).map_err(|_| ()), command, "{text}");
        }
    }

    #[test]
    fn resolve_ambiguous_or_unknown_says_so() {
        assert_eq!(resolve("st").unwrap_err().to_string(), "\"st\" could be start, status or stop");
        assert_eq!(resolve("launch"), Err(Error::Unknown("launch".into())));
        assert_eq!(resolve(""), Err(Error::Unknown(String::new())));
        assert_eq!(resolve("starts"), Err(Error::Unknown("starts".into())));
    }
}
