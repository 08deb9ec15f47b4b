//! `cargo xtask soak --native`: two guests on an emulated board take as many timer interrupts as an hour brings, as fast as they can,
//! while they compute, write and read their disks and consoles.

use std::process::ExitCode;

use anyhow::Result;

use super::{Gic, Options, Platform};
use crate::demo::Plan;
use crate::guest_script;

/// Both guests at once, what they say every half a minute, and at the end whether they and the control domain are well.
fn script(interrupts: u64) -> String {
    format!(
        r#"cd /tmp
words=$(echo 'trials interrupts {interrupts}' | base64 | tr -d '\n')
for g in 1 2; do
	dd if=/dev/zero of=disk$g bs=1M count=1 2>/dev/null
	(vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M -p 2 -d disk$g \
		--cmdline "console=ttyAMA0 quiet auberge.run=$words auberge.token=t" g$g </dev/null
	echo vmctl ended with $?) >g$g.out 2>&1 &
done
n=0
until [ "$(cat g1.out g2.out | grep -c 'vmctl ended')" = 2 ]; do
	sleep 1; n=$((n+1))
	[ $((n % 30)) = 0 ] && for g in 1 2; do echo guest $g: $(grep interrupts g$g.out | tail -n 1); done
done
for g in 1 2; do
	echo guest $g: $(grep -e took -e 'vmctl ended' g$g.out)
	grep -q 'took .* timer interrupts' g$g.out && grep -q 'vmctl ended with 0' g$g.out || {{ cat g$g.out; exit 1; }}
done
dmesg | grep -i -e 'soft lockup' -e 'rcu.*stall' -e oops && exit 1
vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M \
	--cmdline "console=ttyAMA0 quiet auberge.run=$(echo 'echo another guest runs' | base64) auberge.token=t" g </dev/null 2>&1 |
	grep 'another guest runs'
"#
    )
}

/// Works until each of the guests' processors has taken so many timer interrupts.
pub fn run(platform: Platform, gic: Option<Gic>, interrupts: u64) -> Result<ExitCode> {
    let options = Options {
        platform,
        gic,
        guest: None,
        control_domain: true,
        loader: None,
        guest_memory: String::new(),
        guest_cpus: 1,
    };
    super::demo(&options, Plan { script: Some(script(interrupts)), token: guest_script::random_token()? })
}
