//! Whether a guest's timers are right: it sleeps, and says how long that was by its own clock; who hears that compares it with another.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const AT: &str = "sleeps at";
const END: &str = "sleeps end";
/// What may be wrong at most, in percent.
const BOUND: f64 = 1.0;

/// After each sleep says the nanoseconds since the beginning, and at the end those of the median sleep, and of what was wanted.
pub fn sleep(count: u64, milliseconds: u64) -> Result<()> {
    let wanted = Duration::from_millis(milliseconds);
    let start = Instant::now();
    let mut sleeps = Vec::new();
    for _ in 0..count {
        let before = Instant::now();
        std::thread::sleep(wanted);
        sleeps.push(before.elapsed().as_nanos());
        println!("{AT} {}", start.elapsed().as_nanos());
        std::io::stdout().flush()?;
    }
    sleeps.sort_unstable();
    println!("{END} {} {}", sleeps.get(sleeps.len() / 2).context("no sleeps")?, wanted.as_nanos());
    Ok(())
}

/// Passes a console's lines on, and fails if what they say of sleeps is wrong by more than the bound: the guest's clock against this
/// machine's, and the median sleep against what it was to be.
pub fn compare(console: &mut dyn BufRead) -> Result<()> {
    let (begin, mut times, mut line) = (Instant::now(), Vec::new(), Vec::new());
    while console.read_until(b'\n', &mut line)? > 0 {
        let here = begin.elapsed().as_nanos() as f64;
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        println!("{text}");
        let numbers =
            |text: &str| text.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<f64>>();
        if let Some((_, at)) = text.split_once(AT) {
            times.extend(numbers(at).first().map(|there| (*there, here)));
        }
        let Some((_, end)) = text.split_once(END) else { continue };
        let end = numbers(end);
        let ([median, wanted], Some(clock)) = (end.as_slice(), drift(&times)) else {
            bail!("{text:?} comes without six times before it")
        };
        let sleep = (median / wanted - 1.0) * 100.0;
        println!("clock {clock:+.3} %, median sleep {sleep:+.3} %");
        if clock.abs() > BOUND || !(0.0..=BOUND).contains(&sleep) {
            bail!("the guest's timers are wrong by more than {BOUND} %");
        }
        return Ok(());
    }
    bail!("the guest said nothing of sleeps")
}

/// By how many percent one clock is faster than the other, of times by both, there and here. A line takes a while to come, sometimes
/// a long one: of the first third of the times and of the last those count that came with the least delay.
fn drift(times: &[(f64, f64)]) -> Option<f64> {
    let third = times.len() / 3;
    let least =
        |times: &[(f64, f64)]| times.iter().copied().min_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0)));
    let (first, last) = (least(&times[..third])?, least(&times[times.len() - third..])?);
    (third >= 2).then(|| ((last.0 - first.0) / (last.1 - first.1) - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(text: &str) -> Result<()> {
        compare(&mut text.as_bytes())
    }

    #[test]
    fn wrong_clocks_late_sleeps_and_silence_are_failures() {
        // All lines come at once: the clock is wrong, whatever it says.
        let lines: String = (1..10).map(|n| format!("sleeps at {n}000000000\n")).collect();
        assert!(compared(&(lines + "sleeps end 1000 1000\n")).unwrap_err().to_string().contains("wrong"));
        for text in ["sleeps end 1 1\n", "nothing\n", ""] {
            assert!(compared(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn drift_is_that_of_the_clocks_though_lines_come_late() {
        let late = [5.0, 0.0, 90.0, 0.0, 700.0, 3.0, 0.0, 20.0, 40.0];
        let times: Vec<_> =
            (0..9).map(|n| (f64::from(n) * 1010.0, f64::from(n) * 1000.0 + late[n as usize])).collect();
        assert!((drift(&times).unwrap() - 1.0).abs() < 0.001);
        assert_eq!(drift(&times[..5]), None);
    }
}
