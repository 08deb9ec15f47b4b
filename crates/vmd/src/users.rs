//! Users' names.

use std::io::Read;

/// The password file is read no further than this.
const MAX_FILE: u64 = 1 << 22;

/// A user's name in /etc/passwd (passwd(5)), else the number.
pub fn name(uid: u32) -> String {
    let mut text = String::new();
    let read = std::fs::File::open("/etc/passwd").and_then(|f| f.take(MAX_FILE).read_to_string(&mut text));
    let found = if read.is_ok() { find(&text, uid) } else { None };
    found.map_or_else(|| uid.to_string(), String::from)
}

fn find(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_takes_the_third_field_and_skips_broken_lines() {
        let passwd = "broken\n\nroot:x:0:0:root:/root:/bin/sh\nal:x:1000:0::/:/x\n";
        assert_eq!(find(passwd, 0), Some("root"));
        assert_eq!(find(passwd, 1000), Some("al"));
        assert_eq!(find(passwd, 1), None);
    }
}
