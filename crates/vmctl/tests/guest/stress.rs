//! Work for a guest whose results are known.

use super::console::Report;
use sha2::{Digest, Sha256, Sha512};

/// The script; it runs `$WORKERS` at a time with the busybox `$BB`.
pub const SCRIPT: &str = include_str!("stress.sh");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fails when one of `workers` found something else than this machine.
pub fn check(report: &Report, workers: u32) {
    let sums: String = (0..150).map(|i| hex(&Sha256::digest(format!("{i}\n"))) + "  -\n").collect();
    let numbers: Vec<String> = (1..=30_000).map(|i| format!("{i}\n")).collect();
    // busybox sorts by bytes.
    let mut sorted = numbers.clone();
    sorted.sort_by(|a, b| b.trim_end().cmp(a.trim_end()));
    let float: f64 = (1..20_000).map(f64::from).map(|i| (i % 7.0 - 2.75) / i * 1.1).sum();
    for worker in 1..=workers {
        let value = |name: &str| report.value(&format!("{name} {worker}"));
        assert_eq!(value("sums"), hex(&Sha256::digest(&sums)) + "  -", "{}", report.output);
        assert_eq!(value("numbers"), hex(&Sha256::digest(numbers.concat())) + "  -");
        assert_eq!(value("sorted"), hex(&Sha512::digest(sorted.concat())) + "  -");
        assert_eq!(value("float"), format!("{float:.9}"));
        assert!(!report.output.contains("differs"), "{}", report.output);
    }
}
