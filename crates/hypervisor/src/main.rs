//! The hypervisor as a program: an image that a boot loader starts as it would a Linux kernel. All of it is in the library.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use hypervisor as _;

#[cfg(not(target_os = "none"))]
fn main() {
    println!(
        "This program runs before an operating system: build it for aarch64-unknown-none-softfloat or armv7a-none-eabi."
    );
}
