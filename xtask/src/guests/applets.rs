//! Which commands a busybox binary holds, read from the binary itself, so that one for another processor will do too.

/// The applets' names: busybox keeps them as a sorted table of NUL-terminated names that begins with `[` and `[[` and
/// ends with an empty one. Empty when there is no such table.
pub fn names(busybox: &[u8]) -> Vec<String> {
    const BEGINNING: &[u8] = b"\0[\0[[\0";
    let Some(at) = busybox.windows(BEGINNING.len()).position(|window| window == BEGINNING) else {
        return Vec::new();
    };
    busybox[at + 1..]
        .split(|&byte| byte == 0)
        .take_while(|name| !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_table_in_a_binary_is_read_to_its_end() {
        let binary = b"\x7fELF [\0 junk\0\0[\0[[\0ash\0uname\0yes\0\0after\0";
        assert_eq!(names(binary), ["[", "[[", "ash", "uname", "yes"]);
    }

    #[test]
    fn names_no_table_is_empty() {
        assert!(names(b"\x7fELF nothing here").is_empty());
    }

    #[test]
    fn names_table_cut_by_the_end_of_the_file_is_bounded() {
        assert_eq!(names(b"\0[\0[[\0as"), ["[", "[[", "as"]);
    }
}
