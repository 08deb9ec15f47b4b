//! What the tests of the native hypervisor run in its control domain and in guests; `xtask/tests/boards.rs` and
//! `cargo xtask soak --native` say when.
//!
//!     trials calls SECONDS SEED    the control domain's root attacks the hypervisor's calls
//!     trials dma ADDRESS...        and its memory, by a device's DMA
//!     trials kernel FILE SEED      writes a guest kernel that does what it shouldn't
//!     trials kernel32 FILE SEED    the same for ARMv7
//!     trials sleeps COUNT MS       a guest sleeps so often, so long, and says how long that was
//!     trials compare               the control domain reads that from standard input, and compares it with its own clock
//!     trials interrupts COUNT      a guest takes so many timer interrupts on each of its processors, under load

#[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
mod calls;
#[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
mod dma;
mod interrupts;
mod kernel;
mod kernel32;
mod random;
mod sleeps;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text} is no number"));
    match words.as_slice() {
        #[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
        ["calls", seconds, seed] => calls::attack(number(seconds)?, number(seed)?),
        #[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
        ["ring", frame] => calls::ring(number(frame)?),
        #[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
        ["dma", targets @ ..] => {
            let address = |text: &&str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
            let targets: Result<Vec<_>, _> = targets.iter().map(address).collect();
            dma::attack(&targets.context("an address is a hexadecimal number")?)
        }
        ["kernel", file, seed] => std::fs::write(file, kernel::image(number(seed)?))
            .with_context(|| format!("could not write {file}")),
        ["kernel32", file, seed] => std::fs::write(file, kernel32::image(number(seed)?))
            .with_context(|| format!("could not write {file}")),
        ["sleeps", count, milliseconds] => sleeps::sleep(number(count)?, number(milliseconds)?),
        ["compare"] => sleeps::compare(&mut std::io::stdin().lock()),
        ["interrupts", count] => interrupts::take(number(count)?),
        _ => bail!(
            "the tests' programs are: calls SECONDS SEED, dma ADDRESS..., kernel FILE SEED, kernel32 FILE SEED, sleeps COUNT MS, compare, interrupts COUNT"
        ),
    }
}
