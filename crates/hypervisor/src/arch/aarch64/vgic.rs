//! stub
use irqchip::gic::{Gic, Vcpus};
pub struct State {}
impl State {
    pub const fn new() -> Self {
        Self {}
    }
}
pub fn begin() {}
pub fn end(_s: &mut State) {}
pub fn load(_s: &mut State, _gic: &mut Gic, _n: usize, _fired: bool) {}
pub fn store(_s: &mut State, _gic: &mut Gic, _n: usize) -> Vcpus {
    0
}
pub fn take_own_interrupts() -> bool {
    false
}
