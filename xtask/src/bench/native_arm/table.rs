//! The table, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::costs::{Costs, Operation};
use super::systems::System;
use crate::native::{Board, Platform};

/// What `--json` prints.
#[derive(Serialize)]
pub struct Report {
    pub bench: &'static str,
    pub auberge: String,
    pub qemu: String,
    /// Debian's packages and their versions.
    pub sources: Vec<String>,
    pub boards: Vec<Measured>,
}

/// A board's part.
#[derive(Serialize)]
pub struct Measured {
    pub arch: String,
    pub processor: &'static str,
    pub gic: String,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Row {
    pub operation: &'static str,
    #[serde(skip)]
    what: &'static str,
    /// Instructions, by the name of the hypervisor that has such an operation.
    pub instructions: BTreeMap<&'static str, f64>,
}

impl Measured {
    pub fn new(board: &Board, platform: Platform, costs: &[(System, Costs)]) -> Self {
        let row = |operation: Operation| {
            let cost = |(system, costs): &(System, Costs)| Some((system.name(), *costs.get(&operation)?));
            Row {
                operation: operation.name(),
                what: operation.what(),
                instructions: costs.iter().filter_map(cost).collect(),
            }
        };
        Self {
            arch: platform.arch().to_string(),
            processor: board.processor(),
            gic: board.gic().to_string(),
            rows: Operation::ALL.into_iter().map(row).collect(),
        }
    }
}

/// The table for a person.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |first: &str, rest: [&str; 5]| {
        let [auberge, xen, kvm, xen_ratio, kvm_ratio] = rest;
        let line = format!("{first:34}{auberge:>10}{xen:>10}{kvm:>10}{xen_ratio:>10}{kvm_ratio:>10}");
        let _ = writeln!(text, "{}", line.trim_end());
    };
    for board in &report.boards {
        let title = format!("{}, {}, {}", board.arch, board.processor, board.gic);
        line("", ["Auberge", "Xen", "KVM", "Xen ÷", "KVM ÷"]);
        line(&title, ["", "", "", "ours", "ours"]);
        for row in &board.rows {
            let cost = |system: System| row.instructions.get(system.name()).copied();
            let [auberge, xen, kvm] = System::ALL.map(cost);
            let shown = |cost: Option<f64>| cost.map_or("-".to_owned(), |cost| format!("{cost:.0}"));
            let ratio = |cost: Option<f64>| match (cost, auberge) {
                (Some(cost), Some(ours)) => format!("{:.2}", cost / ours),
                _ => "-".to_owned(),
            };
            let [a, x, k] = [auberge, xen, kvm].map(shown);
            line(row.what, [&a, &x, &k, &ratio(xen), &ratio(kvm)]);
        }
        line("", [""; 5]);
    }
    let _ = writeln!(text, "{}, {}", report.auberge, report.qemu);
    let _ = writeln!(text, "{}", report.sources.join(", "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::Gic;

    fn report() -> Report {
        let board = Board::new(Platform::Arm64, Some(Gic::V3)).expect("a board");
        let costs = [
            (System::Auberge, Costs::from([(Operation::Call, 300.4), (Operation::Device, 5000.0)])),
            (System::Xen, Costs::from([(Operation::Call, 600.8)])),
            (System::Kvm, Costs::from([(Operation::Call, 901.2), (Operation::Device, 2500.0)])),
        ];
        Report {
            bench: "native-arm",
            auberge: "Auberge".into(),
            qemu: "QEMU".into(),
            sources: vec!["linux 1".into(), "xen 2".into()],
            boards: vec![Measured::new(&board, Platform::Arm64, &costs)],
        }
    }

    fn words(beginning: &str) -> Vec<String> {
        let text = text(&report());
        let line = text.lines().find_map(|line| line.strip_prefix(beginning)).expect("the row");
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn text_row_shows_instructions_and_ratios_and_what_nobody_has_is_a_dash() {
        assert_eq!(words("null hypercall"), ["300", "601", "901", "2.00", "3.00"]);
        assert_eq!(words("I/O exit to user space"), ["5000", "-", "2500", "-", "0.50"]);
        assert_eq!(words("virtual IPI, to itself"), ["-"; 5]);
        assert_eq!(words("arm64, max, GICv3"), ["ours", "ours"]);
    }

    #[test]
    fn report_as_json_has_names_and_numbers() {
        let json = serde_json::to_value(report()).expect("JSON");
        assert_eq!(json["boards"][0]["gic"], "GICv3");
        assert_eq!(json["boards"][0]["rows"][0]["operation"], "call");
        assert_eq!(json["boards"][0]["rows"][0]["instructions"]["Xen"], 600.8);
    }
}
