//! What the benchmark program and `guests/bench/run.sh` say, line by line (`guests/bench/main.c`).

/// A row's measurement in one place. Times in nanoseconds by that place's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub repeats: u64,
    /// The shortest repetition.
    pub best: u64,
    pub median: u64,
    /// All repetitions together.
    pub total: u64,
    /// The processor time of all repetitions together.
    pub cpu: u64,
    /// The result's checksum, in hexadecimal.
    pub checksum: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The row's clock runs from now on.
    Begin(String),
    End(String, Sample),
    /// The row can't be run there, and why.
    Skip(String, String),
    Fail(String, String),
    /// A moment to look at the memory of the machine's process.
    Mark(String),
}

/// The line's meaning; none for what anything else said.
pub fn parse(line: &str) -> Option<Line> {
    let rest = line.trim_end_matches('\r').strip_prefix("bench ")?;
    let (kind, rest) = rest.split_once(' ')?;
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    if name.is_empty() {
        return None;
    }
    let name = name.to_owned();
    Some(match kind {
        "begin" => Line::Begin(name),
        "end" => Line::End(name, sample(rest)?),
        "skip" => Line::Skip(name, rest.to_owned()),
        "fail" => Line::Fail(name, rest.to_owned()),
        "mark" => Line::Mark(name),
        _ => return None,
    })
}

fn sample(words: &str) -> Option<Sample> {
    let words: Vec<&str> = words.split(' ').collect();
    let value = |name| words.chunks(2).find(|pair| pair[0] == name)?.get(1).copied();
    let number = |name| value(name)?.parse::<u64>().ok();
    let sample = Sample {
        repeats: number("repeats")?,
        best: number("best")?,
        median: number("median")?,
        total: number("total")?,
        cpu: number("cpu")?,
        checksum: value("checksum")?.to_owned(),
    };
    (sample.repeats > 0 && sample.best > 0 && !sample.checksum.is_empty()).then_some(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str =
        "bench end sha256 repeats 3 best 240 median 241 total 771 cpu 513 checksum d49c7839267ae362";

    #[test]
    fn parse_each_kind_of_line_gives_its_meaning() {
        let sample = Sample {
            repeats: 3,
            best: 240,
            median: 241,
            total: 771,
            cpu: 513,
            checksum: "d49c7839267ae362".into(),
        };
        assert_eq!(parse(END), Some(Line::End("sha256".into(), sample)));
        assert_eq!(parse("bench begin x87\r"), Some(Line::Begin("x87".into())));
        assert_eq!(parse("bench mark boot"), Some(Line::Mark("boot".into())));
        let skip = parse("bench skip avx2 this processor has none");
        assert_eq!(skip, Some(Line::Skip("avx2".into(), "this processor has none".into())));
        let fail = parse("bench fail xz it ended");
        assert_eq!(fail, Some(Line::Fail("xz".into(), "it ended".into())));
    }

    #[test]
    fn parse_anything_else_is_nothing() {
        for line in
            ["", "bench", "bench ", "bench end", "bench end sha256", "[ 1.0] bench begin x", "bench mark "]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn parse_end_that_is_cut_or_says_nothing_is_nothing() {
        for length in "bench end sha256".len()..END.len() - "d49c7839267ae362".len() {
            assert_eq!(parse(&END[..length]), None, "{length}");
        }
        assert_eq!(parse(&END.replace("repeats 3", "repeats 0")), None);
        assert_eq!(parse(&END.replace("best 240", "best -1")), None);
    }
}
