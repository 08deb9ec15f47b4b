//! Whether a guest's timers are right: it sleeps, and says how long that was by its own clock; who hears that compares it with another.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const BEGIN: &str = "sleeps begin";
const END: &str = "sleeps end";
/// What may be wrong at most, in percent.
const BOUND: f64 = 1.0;

/// Says when it begins, and at the end the nanoseconds of all and of the median sleep, and how long that was to be.
pub fn sleep(count: u64, milliseconds: u64) -> Result<()> {
    let wanted = Duration::from_millis(milliseconds);
    println!("{BEGIN}");
    std::io::stdout().flush()?;
    let start = Instant::now();
    let mut sleeps = Vec::new();
    for _ in 0..count {
        let before = Instant::now();
        std::thread::sleep(wanted);
        sleeps.push(before.elapsed().as_nanos());
    }
    let all = start.elapsed().as_nanos();
    sleeps.sort_unstable();
    println!("{END} {all} {} {}", sleeps.get(sleeps.len() / 2).context("no sleeps")?, wanted.as_nanos());
    Ok(())
}

/// Passes a console's lines on, and fails if what they say of sleeps is wrong by more than the bound: the guest's clock against this
/// machine's, and the median sleep against what it was to be.
pub fn compare(console: &mut dyn BufRead) -> Result<()> {
    let (mut start, mut line) = (None, Vec::new());
    while console.read_until(b'\n', &mut line)? > 0 {
        let now = Instant::now();
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        println!("{text}");
        if text.ends_with(BEGIN) {
            start = Some(now);
        }
        let Some((_, numbers)) = text.split_once(END) else { continue };
        let numbers: Vec<f64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let (Some(start), [all, median, wanted]) = (start, numbers.as_slice()) else {
            bail!("{text:?} has no beginning")
        };
        let here = (now - start).as_nanos() as f64;
        let (clock, sleep) = ((all / here - 1.0) * 100.0, (median / wanted - 1.0) * 100.0);
        println!("clock {clock:+.3} %, median sleep {sleep:+.3} %");
        if clock.abs() > BOUND || !(0.0..=BOUND).contains(&sleep) {
            bail!("the guest's timers are wrong by more than {BOUND} %");
        }
        return Ok(());
    }
    bail!("the guest said nothing of sleeps")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(text: &str) -> Result<()> {
        compare(&mut text.as_bytes())
    }

    #[test]
    fn wrong_clocks_late_sleeps_and_silence_are_failures() {
        // Both lines come at once: the clock is wrong, whatever it says.
        assert!(compared("sleeps begin\nsleeps end 1000000000 1000 1000\n").is_err());
        assert!(compared("sleeps end 1 1 1\n").is_err());
        assert!(compared("nothing\n").is_err());
        assert!(compared("").is_err());
    }
}
