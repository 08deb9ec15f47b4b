//! The control domain's calls of the firmware (SMC): passed on, except that nothing comes up at EL2 but through us.

use arm::psci;

use crate::arch;
use crate::per_cpu::PerCpu;

/// Registers that a call passes and returns (SMCCC 1.2).
pub type Arguments = [u64; 18];

/// Answers the call in `x` for processor `me` of `cpus`. `resume` passes a call on for a processor that is to start at our entry, whose
/// context argument is its [`PerCpu`].
pub fn call(cpus: &[PerCpu], me: usize, x: &mut Arguments) {
    let function = x[0] as u32;
    let narrow = |value: u64| if function & psci::SMC64 == 0 { value & 0xffff_ffff } else { value };
    match function & !psci::SMC64 {
        psci::CPU_ON => {
            let target = narrow(x[1]) & arch::AFFINITY;
            let found =
                cpus.iter().find(|cpu| cpu.affinity.load(core::sync::atomic::Ordering::Relaxed) == target);
            match found {
                Some(cpu) => start(cpu, narrow(x[2]), narrow(x[3]), x, 2),
                None => x[0] = psci::INVALID_PARAMETERS as u64,
            }
        }
        psci::CPU_SUSPEND => start(&cpus[me], narrow(x[2]), narrow(x[3]), x, 2),
        psci::CPU_DEFAULT_SUSPEND | psci::SYSTEM_SUSPEND => {
            start(&cpus[me], narrow(x[1]), narrow(x[2]), x, 1)
        }
        psci::VERSION
        | psci::CPU_OFF
        | psci::AFFINITY_INFO
        | psci::MIGRATE
        | psci::MIGRATE_INFO_TYPE
        | psci::MIGRATE_INFO_UP_CPU
        | psci::SYSTEM_OFF
        | psci::SYSTEM_RESET
        | psci::SYSTEM_RESET2
        | psci::SET_SUSPEND_MODE
        | psci::FEATURES => arch::smc(x),
        // What else PSCI has may start a processor in a way that we don't know.
        psci::VERSION..=psci::LAST => x[0] = psci::NOT_SUPPORTED as u64,
        _ if psci::OWNER_HYPERVISOR.contains(&psci::owner(function)) => x[0] = psci::NOT_SUPPORTED as u64,
        _ => arch::smc(x),
    }
}

/// Passes the call on with our entry address in register `at` and `cpu` in the next. It returns if `cpu` is another processor, if it didn't
/// power down, or on an error.
fn start(cpu: &PerCpu, entry: u64, context: u64, x: &mut Arguments, at: usize) {
    if !cpu.start.claim(entry, context) {
        x[0] = psci::ON_PENDING as u64;
        return;
    }
    x[0] |= psci::SMC64 as u64 & arch::CALL_WIDTH;
    (x[at], x[at + 1]) = (arch::entry_address(), arch::clean_per_cpu(cpu));
    let other = x[0] as u32 & !psci::SMC64 == psci::CPU_ON;
    arch::smc(x);
    if !other || x[0] as u32 as i32 as i64 != psci::SUCCESS {
        cpu.start.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    fn cpus() -> [PerCpu; 2] {
        let cpus = [PerCpu::absent(), PerCpu::absent()];
        (0..2).for_each(|n| cpus[n].affinity.store(n as u64, Ordering::Relaxed));
        cpus
    }

    fn arguments(given: &[u64]) -> Arguments {
        let mut x = [0; 18];
        x[..given.len()].copy_from_slice(given);
        x
    }

    #[test]
    fn a_processor_starts_at_our_entry() {
        let cpus = cpus();
        let mut x = arguments(&[(psci::CPU_ON | psci::SMC64) as u64, 1, 0x4000_0000, 77]);
        call(&cpus, 0, &mut x);
        let passed = arch::last_smc();
        assert_eq!((passed[1], passed[2], x[0]), (1, arch::entry_address(), 0));
        // Until it has come up, it isn't started again with another place.
        let mut again = arguments(&[(psci::CPU_ON | psci::SMC64) as u64, 1, 0x5000_0000, 78]);
        call(&cpus, 0, &mut again);
        assert_eq!(again[0] as i64, psci::ON_PENDING);
        assert_eq!(cpus[1].start.take(), (0x4000_0000, 77));
        let mut unknown = arguments(&[(psci::CPU_ON | psci::SMC64) as u64, 2]);
        call(&cpus, 0, &mut unknown);
        assert_eq!(unknown[0] as i64, psci::INVALID_PARAMETERS);
    }

    #[test]
    fn no_call_hands_an_address_of_the_control_domain_to_the_firmware() {
        let cpus = cpus();
        for function in (psci::VERSION..=psci::LAST).flat_map(|f| [f, f | psci::SMC64]) {
            arch::forget_smc();
            let mut x = arguments(&[function as u64, 0xdead_0000, 0xdead_0000, 0xdead_0000]);
            call(&cpus, 0, &mut x);
            let passed = arch::last_smc();
            match function & !psci::SMC64 {
                psci::CPU_SUSPEND => assert_eq!(passed[2], arch::entry_address()),
                psci::CPU_DEFAULT_SUSPEND | psci::SYSTEM_SUSPEND => {
                    assert_eq!(passed[1], arch::entry_address())
                }
                0x8400_000b | 0x8400_000d | 0x8400_0010..=0x8400_0011 | 0x8400_0013.. => {
                    assert_eq!((passed[0], x[0] as i64), (0, psci::NOT_SUPPORTED))
                }
                _ => {}
            }
            assert!(cpus.iter().all(|cpu| cpu.start.claim(0, 0)));
            cpus.iter().for_each(|cpu| assert_eq!(cpu.start.take(), (0, 0)));
        }
        let mut x = arguments(&[0xc600_0001]);
        call(&cpus, 0, &mut x);
        assert_eq!(x[0] as i64, psci::NOT_SUPPORTED);
    }
}
