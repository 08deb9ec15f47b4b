//! What the measuring guest says on a console: how long each operation took, again and again, in ticks.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::bench::statistics::median;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Call,
    Register,
    Distributor,
    Device,
    Ipi,
    Timer,
}

impl Operation {
    pub const ALL: [Operation; 6] =
        [Self::Call, Self::Register, Self::Distributor, Self::Device, Self::Ipi, Self::Timer];

    /// What `guests/cost` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Register => "register",
            Self::Distributor => "distributor",
            Self::Device => "device",
            Self::Ipi => "ipi",
            Self::Timer => "timer",
        }
    }

    /// For a person.
    pub fn what(self) -> &'static str {
        match self {
            Self::Call => "null hypercall",
            Self::Register => "trapped register (ACTLR)",
            Self::Distributor => "interrupt controller (GICD_TYPER)",
            Self::Device => "I/O exit to user space",
            Self::Ipi => "virtual IPI, to itself",
            Self::Timer => "virtual timer interrupt",
        }
    }
}

/// Instructions that each operation took: the median of all times.
pub type Costs = BTreeMap<Operation, f64>;

/// What the last line says.
pub const END: &str = "cost end";
/// What an empty turn takes (`empty_loop`), in instructions.
const EMPTY: f64 = 3.0;

/// Reads a console. Others may say something on it meanwhile, but not within a line.
///
/// Errors: the guest had a fault, an interrupt came twice, or its counter doesn't count instructions.
pub fn parse(console: &str) -> Result<Costs> {
    let lines = || {
        console.lines().filter_map(|line| {
            let (_, said) = line.split_once("cost ")?;
            Some(said.split_whitespace().collect::<Vec<_>>())
        })
    };
    let number = |word: &str| u64::from_str_radix(word, 16).with_context(|| format!("{word} is no number"));
    let mut nanoseconds = None;
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for words in lines() {
        match words[..] {
            ["fault", ..] => bail!("the guest did not come to its end: {}", words.join(" ")),
            ["frequency", frequency] => {
                nanoseconds = Some(1e9 / number(frequency)? as f64);
            }
            [name, count, ticks] => {
                let (count, ticks) = (number(count)?, number(ticks)?);
                if ticks >= u32::MAX.into() {
                    bail!("the guest took more interrupts for {name} than it had asked for");
                }
                let tick = nanoseconds.context("the guest did not say its counter's frequency")?;
                // A nanosecond is an instruction.
                times.entry(name).or_default().push(ticks as f64 * tick / count as f64);
            }
            _ => {}
        }
    }
    let empty = median(times.get("nothing").context("the guest measured nothing")?);
    if (empty - EMPTY).abs() > 0.5 {
        bail!("the guest's counter counts {empty:.2} instructions where there are {EMPTY}");
    }
    let found = |operation: Operation| Some((operation, median(times.get(operation.name())?)));
    Ok(Operation::ALL.into_iter().filter_map(found).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 62.5 MHz, so 16 instructions a tick.
    const START: &str = "(XEN) DOM1: cost frequency 3b9aca0\ncost nothing 40 c\n";

    #[test]
    fn parse_medians_are_instructions_among_whatever_else_is_said() {
        let said = format!(
            "{START}boot: at no cost\ncost call 40 100\r\n[1.0] hello\ncost call 40 200\ncost call 40 9999\ncost end\n"
        );
        let costs = parse(&said).expect("costs");
        assert_eq!(costs, Costs::from([(Operation::Call, 512.0 * 16.0 / 64.0)]));
    }

    #[test]
    fn parse_wrong_counters_faults_and_strays_are_errors() {
        let error = |said: &str| parse(said).expect_err(said).to_string();
        assert!(error("cost frequency 3b9aca00\ncost nothing 40 c\n").contains("0.19 instructions"));
        assert!(error(&format!("{START}cost fault 1 2 3\n")).contains("fault 1 2 3"));
        assert!(error(&format!("{START}cost ipi 40 ffffffffffffffff\n")).contains("more interrupts for ipi"));
        assert!(error("").contains("measured nothing"));
        assert!(error("cost call 40 1\n").contains("frequency"));
        assert!(error(&format!("{START}cost call 40 xyz\n")).contains("xyz"));
    }
}
