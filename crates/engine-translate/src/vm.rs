//! The engine contract, implemented.

use engine::{Engine, Error, Probe, Result, Vm, VmConfig};
use std::sync::Arc;

/// The translate engine.
#[derive(Default)]
pub struct Translate {}

impl Translate {
    pub fn new() -> Self {
        Self {}
    }
}

impl Engine for Translate {
    fn name(&self) -> &'static str {
        "translate"
    }
    fn probe(&self) -> Probe {
        Probe::Usable { rank: 10 }
    }
    fn create_vm(&self, _config: VmConfig) -> Result<Arc<dyn Vm>> {
        Err(Error::Unsupported { engine: "translate", what: "virtual machines".into() })
    }
}
