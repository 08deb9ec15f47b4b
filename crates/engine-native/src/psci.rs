//! A guest's calls to its firmware: PSCI 1.0 (Arm DEN 0022) and the SMC calling convention 1.1 (Arm DEN 0028).

use crate::power::{Power, Powers, Refused};
use arm::psci::*;
use hypercall::GuestMode;

/// PSCI_VERSION's and SMCCC_VERSION's: major in bits 30 to 16, minor in 15 to 0.
const PSCI_1_0: i64 = 1 << 16;
const SMCCC_1_1: i64 = 1 << 16 | 1;
/// MIGRATE_INFO_TYPE: there is no Trusted OS to migrate.
const NOTHING_TO_MIGRATE: i64 = 2;

/// The affinity fields of MPIDR_EL1: Aff3, and Aff2 to Aff0 (Arm ARM DDI 0487, D17.2.101).
const AFFINITY: u64 = 0xff_00ff_ffff;

/// What is to be done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The guest goes on with this in X0.
    Return(i64),
    /// This vCPU was turned on, and the guest goes on with success.
    TurnedOn(u32),
    /// The calling vCPU is off.
    TurnedOff,
    PowerOff,
    Reset,
    /// No function of these.
    Unknown,
}

/// Does what vCPU `caller` asked for with X0 to X3.
pub fn call(powers: &Powers, mode: GuestMode, caller: u32, arguments: [u64; 4]) -> Answer {
    let number = arguments[0] as u32;
    let base = number & !SMC64;
    if number & SMC64 != 0 && (mode == GuestMode::Aarch32 || !has_64_bit_form(base)) {
        return Answer::Unknown;
    }
    // A 32-bit function's arguments are in the lower halves.
    let argument = |n: usize| match number & SMC64 {
        0 => arguments[n] & 0xffff_ffff,
        _ => arguments[n],
    };
    match base {
        SMCCC_VERSION => Answer::Return(SMCCC_1_1),
        SMCCC_FEATURES => match argument(1) as u32 {
            SMCCC_VERSION | SMCCC_FEATURES => Answer::Return(SUCCESS),
            _ => Answer::Return(NOT_SUPPORTED),
        },
        VERSION => Answer::Return(PSCI_1_0),
        // A standby that something wakes at once.
        CPU_SUSPEND => Answer::Return(SUCCESS),
        CPU_OFF => {
            powers.set(caller, Power::Off);
            Answer::TurnedOff
        }
        CPU_ON => {
            let Some(vcpu) = vcpu_of(argument(1)) else { return Answer::Return(INVALID_PARAMETERS) };
            match powers.turn_on(vcpu, argument(2), argument(3)) {
                Ok(()) => Answer::TurnedOn(vcpu),
                Err(Refused::NoSuch) => Answer::Return(INVALID_PARAMETERS),
                Err(Refused::AlreadyOn) => Answer::Return(ALREADY_ON),
                Err(Refused::Pending) => Answer::Return(ON_PENDING),
            }
        }
        AFFINITY_INFO => {
            // Level 0, a vCPU itself, is the only one that must be there since 1.0.
            let power = vcpu_of(argument(1)).filter(|_| argument(2) == 0).and_then(|vcpu| powers.get(vcpu));
            Answer::Return(match power {
                Some(Power::On) => 0,
                Some(Power::Off) => 1,
                Some(Power::Pending { .. }) => 2,
                None => INVALID_PARAMETERS,
            })
        }
        MIGRATE_INFO_TYPE => Answer::Return(NOTHING_TO_MIGRATE),
        SYSTEM_OFF => Answer::PowerOff,
        SYSTEM_RESET => Answer::Reset,
        FEATURES => {
            let asked = argument(1) as u32;
            let base = asked & !SMC64;
            let there = match base {
                SMCCC_VERSION | VERSION | CPU_OFF | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET
                | FEATURES => asked == base,
                CPU_SUSPEND | CPU_ON | AFFINITY_INFO => asked == base || mode == GuestMode::Aarch64,
                _ => false,
            };
            Answer::Return(if there { SUCCESS } else { NOT_SUPPORTED })
        }
        _ => Answer::Unknown,
    }
}

fn has_64_bit_form(base: u32) -> bool {
    matches!(base, CPU_SUSPEND | CPU_ON | AFFINITY_INFO)
}

/// The vCPU of an MPIDR: their numbers are in Aff0, and there is nothing above. (GICv2 and [`hypercall::MAX_VCPUS`] have room for
/// no more.)
fn vcpu_of(mpidr: u64) -> Option<u32> {
    let affinity = mpidr & AFFINITY;
    u32::try_from(affinity).ok().filter(|&n| n < 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(powers: &Powers, number: u32, rest: [u64; 3]) -> Answer {
        call(powers, GuestMode::Aarch64, 0, [number.into(), rest[0], rest[1], rest[2]])
    }

    #[test]
    fn call_cpu_on_then_affinity_info_tells_it_is_pending() {
        let powers = Powers::new(2);
        assert_eq!(ask(&powers, AFFINITY_INFO, [1, 0, 0]), Answer::Return(1));
        assert_eq!(ask(&powers, CPU_ON | SMC64, [0x8000_0001, 1 << 40, 7]), Answer::TurnedOn(1));
        assert_eq!(powers.get(1), Some(Power::Pending { entry: 1 << 40, context: 7 }));
        assert_eq!(ask(&powers, AFFINITY_INFO | SMC64, [1, 0, 0]), Answer::Return(2));
        assert_eq!(ask(&powers, CPU_ON, [1, 0, 0]), Answer::Return(ON_PENDING));
        assert_eq!(ask(&powers, CPU_ON, [0, 0, 0]), Answer::Return(ALREADY_ON));
    }

    #[test]
    fn call_32_bit_form_takes_the_lower_halves() {
        let powers = Powers::new(2);
        assert_eq!(ask(&powers, CPU_ON, [0xff_0000_0001, 0xff_4000_0000, 0]), Answer::TurnedOn(1));
        assert_eq!(powers.get(1), Some(Power::Pending { entry: 0x4000_0000, context: 0 }));
    }

    #[test]
    fn call_no_such_vcpu_level_or_function_is_refused() {
        let powers = Powers::new(2);
        for target in [2, 0x100, 0x1_0000, 1 << 32, u64::MAX] {
            assert_eq!(ask(&powers, CPU_ON | SMC64, [target, 0, 0]), Answer::Return(INVALID_PARAMETERS));
            assert_eq!(
                ask(&powers, AFFINITY_INFO | SMC64, [target, 0, 0]),
                Answer::Return(INVALID_PARAMETERS)
            );
        }
        assert_eq!(ask(&powers, AFFINITY_INFO, [0, 1, 0]), Answer::Return(INVALID_PARAMETERS));
        for number in [0, 0x8400_0005, 0x8400_0007, 0x8400_000b, SYSTEM_OFF | SMC64, u32::MAX] {
            assert_eq!(ask(&powers, number, [0; 3]), Answer::Unknown, "{number:#x}");
        }
        let narrow = call(&powers, GuestMode::Aarch32, 0, [(CPU_ON | SMC64).into(), 1, 0, 0]);
        assert_eq!(narrow, Answer::Unknown);
    }

    #[test]
    fn call_versions_features_and_ends() {
        let powers = Powers::new(1);
        assert_eq!(ask(&powers, VERSION, [0; 3]), Answer::Return(0x1_0000));
        assert_eq!(ask(&powers, SMCCC_VERSION, [0; 3]), Answer::Return(0x1_0001));
        assert_eq!(ask(&powers, MIGRATE_INFO_TYPE, [0; 3]), Answer::Return(2));
        for (number, there) in
            [(CPU_ON | SMC64, true), (CPU_OFF, true), (CPU_OFF | SMC64, false), (0x8400_0012, false)]
        {
            let expected = if there { SUCCESS } else { NOT_SUPPORTED };
            assert_eq!(ask(&powers, FEATURES, [number.into(), 0, 0]), Answer::Return(expected));
        }
        assert_eq!(ask(&powers, SYSTEM_OFF, [0; 3]), Answer::PowerOff);
        assert_eq!(ask(&powers, SYSTEM_RESET, [0; 3]), Answer::Reset);
        assert_eq!(ask(&powers, CPU_OFF, [0; 3]), Answer::TurnedOff);
        assert_eq!(powers.get(0), Some(Power::Off));
    }
}
