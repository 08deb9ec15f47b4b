//! The native hypervisor on emulated boards: `cargo xtask demo --native`, with scripts that say what they saw.
//!
//! `cargo xtask test` has built and fetched all there is to boot; alone, the first of these does that.

use std::process::Command;

/// Runs a script on a board; gives what it wrote. What the hypervisor says on the UART meanwhile is among it.
fn demo(platform: &str, arguments: &[&str], script: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["demo", "--native", platform]).args(arguments).args(["--", script]);
    let output = command.output().expect("xtask starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} with:\n{out}\n{err}", output.status);
    out.into_owned()
}

/// In the control domain: two guests with two vCPUs each at once, which compute, sleep, and read and write a disk of their own.
const TWO_GUESTS: &str = r#"
cd /tmp
dd if=/dev/urandom of=disk1 bs=64k count=16 2>/dev/null; cp disk1 disk2
sum() { md5sum <$1 | cut -c1-32; }
before=$(sum disk1)
words=$(base64 <<'END' | tr -d '\n'
echo processors $(nproc)
sleep 2
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo counted $i
echo read $(md5sum </dev/vda | cut -c1-32)
dd if=/dev/zero of=/dev/vda bs=64k count=4 conv=fsync 2>/dev/null
echo wrote $(md5sum </dev/vda | cut -c1-32)
END
)
for g in 1 2; do
	vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M -p 2 -d disk$g \
		--cmdline "console=ttyAMA0 quiet auberge.run=$words auberge.token=t" g$g >g$g.out 2>&1 </dev/null &
done
wait
for g in 1 2; do
	grep -q "processors 2" g$g.out && grep -q "counted 20000" g$g.out || { cat g$g.out; exit 1; }
	grep -q "read $before" g$g.out || { echo "guest $g read another disk"; cat g$g.out; exit 1; }
	grep -q "wrote $(sum disk$g)" g$g.out || { echo "guest $g's writes were lost"; cat g$g.out; exit 1; }
done
cmp disk1 disk2 && [ "$(sum disk1)" != "$before" ] && echo both well
"#;

#[test]
fn two_guests_at_once_on_a_gicv2() {
    let said = demo("arm64", &["--gic", "2", "--control-domain"], TWO_GUESTS);
    assert!(said.contains("both well"), "{said}");
}

#[test]
fn two_guests_at_once_on_a_gicv3() {
    let said = demo("arm64", &["--gic", "3", "--control-domain"], TWO_GUESTS);
    assert!(said.contains("both well"), "{said}");
}

#[test]
fn two_guests_at_once_on_a_cortex_a15() {
    let said = demo("armhf", &["--control-domain"], &format!("{TWO_GUESTS}\n{TIMERS}"));
    assert!(said.contains("both well") && said.contains("timers right"), "{said}");
}

/// In the control domain: a guest's clock and sleeps, against the control domain's clock. Both clocks count the same board's time, whatever
/// this machine has to do.
const TIMERS: &str = r#"
vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M --cmdline \
	"console=ttyAMA0 quiet auberge.run=$(echo 'trials sleeps 12 1000' | base64 | tr -d '\n') auberge.token=t" g </dev/null |
	trials compare && echo timers right
"#;

#[test]
fn the_daemon_lists_two_guests_and_timers_are_right() {
    const DAEMON: &str = r#"
mkdir -m 700 /run/vmd; export VMD_SOCKET=/run/vmd/socket
vmd >/tmp/vmd.out 2>&1 &
n=0; until [ -S $VMD_SOCKET ] || [ $n = 30 ]; do sleep 1; n=$((n+1)); done
for g in first second; do
	vmctl start -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M -p 2 --cmdline "console=ttyAMA0 quiet" $g || cat /tmp/vmd.out
done
vmctl status
for g in first second; do vmctl stop -f -w $g; done
echo $(vmctl status | grep -c -e first -e second) left
"#;
    let said = demo("arm64", &["--control-domain"], &format!("{DAEMON}\n{TIMERS}"));
    for guest in ["first", "second"] {
        assert!(said.lines().any(|line| line.contains(guest) && line.contains("running")), "{said}");
    }
    assert!(said.contains("0 left") && said.contains("timers right"), "{said}");
}

/// The control domain's root attacks the calls, kernels of rubbish their hypervisor, and a guest's root what is not the guest's:
/// each has its own fault, and other guests run beside and afterwards.
fn the_hostile_harm_nobody_else(platform: &str, arguments: &[&str], kernels: &str) {
    const SCRIPT: &str = r#"
cd /tmp
trials calls 5 7 || exit 1
guest() {
	vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M -p 2 --cmdline \
		"console=ttyAMA0 quiet auberge.run=$(base64 | tr -d '\n') auberge.token=t" $1
}
guest quiet >quiet.out 2>&1 <<'END' &
echo up; n=0; while [ $n -lt 12 ]; do sleep 1; n=$((n+1)); done; echo quiet one is well
END
for words in $KERNELS; do
	trials ${words%-*} kernel ${words#*-}
	vmctl run -b kernel -m 64M -p 2 hostile </dev/null >out 2>&1; echo $words ended with $?
	grep -a -q 'kernel survived' out && echo $words survived || cat out
done
guest prying <<'END' 2>&1 | grep -v -e begin -e ' end '
for at in 0x0 0x3ffff000 0x60000000 0xffff0000 0x40200000; do devmem $at 32; devmem $at 32 0xffffffff; done 2>&1 | sort | uniq -c
echo prying one goes on
END
wait
cat quiet.out
"#;
    let script = format!("KERNELS='{kernels}'\n{SCRIPT}");
    let said = demo(platform, &[arguments, &["--control-domain"]].concat(), &script);
    let survived = kernels.split_whitespace().map(|words| format!("{words} survived"));
    let lines = [
        "all machines destroyed: true",
        "doorbell that were refused: 16",
        "prying one goes on",
        "quiet one is well",
    ];
    for line in lines.into_iter().map(str::to_owned).chain(survived) {
        assert!(said.contains(&line), "no \"{line}\" in:\n{said}");
    }
}

#[test]
fn the_hostile_harm_nobody_else_on_a_gicv2() {
    the_hostile_harm_nobody_else("arm64", &["--gic", "2"], "kernel-1 kernel-2");
}

#[test]
fn the_hostile_harm_nobody_else_on_a_gicv3() {
    the_hostile_harm_nobody_else("arm64", &["--gic", "3"], "kernel-3 kernel-4");
}

#[test]
fn the_hostile_harm_nobody_else_on_a_cortex_a15() {
    the_hostile_harm_nobody_else("armhf", &[], "kernel32-1 kernel32-2");
}

#[test]
fn a_32_bit_guest_on_armv8() {
    let said = demo("arm64", &["--guest", "armhf", "--cpus", "2"], "uname -m; nproc; sleep 1; echo slept");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["armv7l", "2", "slept"]);
}

/// As on real boards: from a disk that `cargo xtask image` has made, by U-Boot's script or GRUB's menu. In the control domain, both
/// processors and the command line are there.
fn started_by(loader: &str, platform: &str, machine: &str) {
    let script = "uname -m; nproc; grep -o panic=-1 /proc/cmdline";
    let said = demo(platform, &["--control-domain", "--loader", loader], script);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), [machine, "2", "panic=-1"]);
}

#[test]
fn u_boot_starts_it_on_arm64() {
    started_by("u-boot", "arm64", "aarch64");
}

#[test]
fn u_boot_starts_it_on_armhf() {
    started_by("u-boot", "armhf", "armv7l");
}

#[test]
fn grub_starts_it_on_arm64() {
    started_by("grub", "arm64", "aarch64");
}

/// The control domain can't reach the hypervisor, nor a process without the right the doorbell; a machine whose process is killed is
/// gone, and others can be made.
#[test]
fn nobody_gets_what_is_not_theirs() {
    const SCRIPT: &str = r#"
cd /tmp
for reg in /proc/device-tree/reserved-memory/*/reg; do
	own=$(hexdump -v -e '/1 "%02x"' $reg | cut -c1-16)
	devmem 0x$own; echo devmem $own $?
done
adduser -D -H somebody 2>/dev/null || echo 'somebody:x:1000:1000::/:/bin/sh' >>/etc/passwd
chmod 755 /tmp
su somebody -s /bin/sh -c 'vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img nobody' </dev/null 2>&1; echo unprivileged $?
run() {
	vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M -p 2 --cmdline "console=ttyAMA0 quiet auberge.run=$1 auberge.token=t" g
}
run $(echo 'echo up; sleep 1000' | base64) >killed.out 2>&1 </dev/null &
n=0; until grep -q '^up' killed.out || [ $n = 60 ]; do sleep 1; n=$((n+1)); done
grep -q '^up' killed.out && echo first is up
for p in /proc/[0-9]*; do grep -q -a 'vm-process' $p/cmdline 2>/dev/null && kill -9 ${p#/proc/}; done
wait
run $(echo 'echo and again' | base64) </dev/null 2>&1
"#;
    let said = demo("arm64", &["--control-domain"], SCRIPT);
    for line in ["first is up", "and again"] {
        assert!(said.contains(line), "no \"{line}\" in:\n{said}");
    }
    assert!(said.contains("refused the control domain's read"), "{said}");
    let devmem: Vec<_> = said.lines().filter(|line| line.starts_with("devmem")).collect();
    assert!(!devmem.is_empty() && devmem.iter().all(|line| !line.ends_with(" 0")), "{said}");
    assert!(!said.contains("unprivileged 0\n"), "{said}");
}

/// Nor do the control domain's devices reach the hypervisor where there is an SMMU; afterwards everything is as it was.
#[test]
fn no_device_reaches_the_hypervisor() {
    const SCRIPT: &str = r#"
own=$(hexdump -v -e '/1 "%02x"' /proc/device-tree/reserved-memory/auberge-hypervisor/reg | cut -c1-16)
trials dma $own || exit 1
devmem 0x$own
vmctl run -b /guest/vmlinuz --initrd /guest/initrd.img -m 256M --cmdline \
	"console=ttyAMA0 quiet auberge.run=$(echo 'echo a guest is well' | base64 | tr -d '\n') auberge.token=t" g </dev/null 2>&1
"#;
    let said = demo("arm64", &["--gic", "3", "--control-domain"], SCRIPT);
    for line in ["DMA reaches the control domain's own memory", "DMA has not read", "a guest is well"] {
        assert!(said.contains(line), "no \"{line}\" in:\n{said}");
    }
    assert!(said.contains("refused the control domain's device"), "{said}");
}
