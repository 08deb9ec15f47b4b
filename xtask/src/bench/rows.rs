//! The table's rows.

/// What kind of work a row is, which means it counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// One of our own programs in `guests/bench`.
    Own,
    /// A program of Debian's.
    Debian,
}

pub struct Row {
    /// What `guests/bench` calls it.
    pub name: &'static str,
    pub group: Group,
    /// Whether it is one of the rows that the engine's goals are stated for (docs/performance.md).
    pub goal: bool,
    pub what: &'static str,
}

const fn own(name: &'static str, what: &'static str) -> Row {
    Row { name, group: Group::Own, goal: true, what }
}

const fn debian(name: &'static str, what: &'static str) -> Row {
    Row { name, group: Group::Debian, goal: true, what }
}

/// In the order in which they run.
pub const ROWS: &[Row] = &[
    own("sha256", "SHA-256"),
    own("quicksort", "quicksort"),
    own("hash-table", "hash table 8 MB"),
    own("chase-32k", "pointer chase 32 KB"),
    own("chase-4m", "pointer chase 4 MB"),
    own("chase-128m", "pointer chase 128 MB"),
    own("interpreter", "threaded interpreter"),
    own("recursive-calls", "recursive calls"),
    own("indirect-calls", "indirect calls"),
    own("scalar-double", "scalar double"),
    own("matrix-sse2", "SSE2 matrix product"),
    own("matrix-avx2-fma", "AVX2+FMA matrix product"),
    own("x87", "x87"),
    own("libm", "libm"),
    own("memcpy-4k", "memcpy 4 KB"),
    own("rep-movsb-4k", "rep movsb 4 KB"),
    own("getppid", "getppid"),
    own("page-fault", "page fault"),
    own("fork-exec", "fork+exec"),
    own("context-switch", "context switch over pipes"),
    debian("cc1", "cc1 -O2"),
    debian("perl", "perl"),
    debian("sqlite", "sqlite3"),
    debian("awk", "mawk"),
    debian("xz", "xz"),
    debian("gzip", "gzip"),
    Row { name: "shell", group: Group::Debian, goal: false, what: "dash" },
];

/// What isn't a row of the table but can be chosen by name like one.
pub const BOOT_AMD64: &str = "boot-amd64";
pub const BOOT_I386: &str = "boot-i386";
pub const MAKE: &str = "make-j2";
/// The rows of `guests/bench/run.sh` that this one compares.
pub const MAKE_JOBS: [&str; 2] = ["make-j1", "make-j2"];

/// Names that stand for several.
const GROUPS: &[(&str, Group)] = &[("own", Group::Own), ("debian", Group::Debian)];

/// What to measure.
pub struct Chosen {
    pub rows: Vec<&'static Row>,
    pub boot_amd64: bool,
    pub boot_i386: bool,
    pub make: bool,
}

impl Chosen {
    /// Whether one of them is a program of Debian's.
    pub fn needs_debian(&self) -> bool {
        self.make || self.rows.iter().any(|row| row.group == Group::Debian)
    }
}

/// The rows of these names; all, where none is named.
///
/// Errors: the name that nothing has, and the names there are.
pub fn choose(names: &[String]) -> Result<Chosen, String> {
    for name in names {
        if !known().any(|one| one == name) {
            let all = known().collect::<Vec<_>>().join(" ");
            return Err(format!("there is no row {name}; there are: {all}"));
        }
    }
    let wants = |name: &str| names.is_empty() || names.iter().any(|one| one == name);
    let wants_row = |row: &&Row| {
        wants(row.name)
            || GROUPS.iter().any(|&(name, group)| group == row.group && names.iter().any(|one| one == name))
    };
    Ok(Chosen {
        rows: ROWS.iter().filter(wants_row).collect(),
        boot_amd64: wants(BOOT_AMD64),
        boot_i386: wants(BOOT_I386),
        make: wants(MAKE),
    })
}

fn known() -> impl Iterator<Item = &'static str> {
    let rows = ROWS.iter().map(|row| row.name);
    rows.chain([BOOT_AMD64, BOOT_I386, MAKE]).chain(GROUPS.iter().map(|&(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn choose_nothing_is_everything() {
        let chosen = choose(&[]).expect("all");
        assert_eq!(chosen.rows.len(), ROWS.len());
        assert!(chosen.boot_amd64 && chosen.boot_i386 && chosen.make);
    }

    #[test]
    fn choose_names_and_groups_gives_those_in_the_table_s_order() {
        let chosen = choose(&names(&["debian", "x87", "boot-i386"])).expect("known");
        assert_eq!(chosen.rows.first().map(|row| row.name), Some("x87"));
        assert_eq!(chosen.rows.len(), 8);
        assert!(!chosen.boot_amd64 && chosen.boot_i386 && !chosen.make);
    }

    #[test]
    fn choose_unknown_name_is_an_error_that_lists_the_known() {
        let error = choose(&names(&["x86"])).err().expect("unknown");
        assert!(
            error.contains("no row x86") && error.contains("x87") && error.contains("make-j2"),
            "{error}"
        );
    }
}
