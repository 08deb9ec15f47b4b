//! Which vCPUs are on, as PSCI has it (Arm DEN 0022, 5.1.4 and 6.6).

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A vCPU's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    On,
    /// CPU_ON was called for it, and its thread has not come to it yet: where it begins, and its X0.
    Pending {
        entry: u64,
        context: u64,
    },
    Off,
}

/// A machine's vCPUs.
#[derive(Debug)]
pub struct Powers(Mutex<Vec<Power>>);

/// Why a vCPU can't be turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NoSuch,
    AlreadyOn,
    Pending,
}

impl Powers {
    /// All off but the first.
    pub fn new(vcpus: u32) -> Self {
        let power = |n| if n == 0 { Power::On } else { Power::Off };
        Self(Mutex::new((0..vcpus).map(power).collect()))
    }
    fn lock(&self) -> MutexGuard<'_, Vec<Power>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn get(&self, vcpu: u32) -> Option<Power> {
        self.lock().get(vcpu as usize).copied()
    }
    pub fn set(&self, vcpu: u32, power: Power) {
        if let Some(p) = self.lock().get_mut(vcpu as usize) {
            *p = power;
        }
    }
    /// Turns an off one on.
    pub fn turn_on(&self, vcpu: u32, entry: u64, context: u64) -> Result<(), Refused> {
        match self.lock().get_mut(vcpu as usize) {
            None => Err(Refused::NoSuch),
            Some(Power::On) => Err(Refused::AlreadyOn),
            Some(Power::Pending { .. }) => Err(Refused::Pending),
            Some(power) => {
                *power = Power::Pending { entry, context };
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_on_only_one_that_is_off() {
        let powers = Powers::new(2);
        assert_eq!(powers.turn_on(0, 0, 0), Err(Refused::AlreadyOn));
        assert_eq!(powers.turn_on(1, 4, 5), Ok(()));
        assert_eq!(powers.turn_on(1, 0, 0), Err(Refused::Pending));
        assert_eq!(powers.get(1), Some(Power::Pending { entry: 4, context: 5 }));
        assert_eq!(powers.turn_on(2, 0, 0), Err(Refused::NoSuch));
        assert_eq!(powers.get(u32::MAX), None);
        powers.set(9, Power::On);
    }
}
