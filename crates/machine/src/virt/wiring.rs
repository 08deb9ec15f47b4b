//! The virt board's chips, made and wired to each other.

use super::interrupts::Spi;
use super::memory_map::{GPIO, POWER_BUTTON_PIN, RTC, UART, VIRTIO, VIRTIO_MOST, spi};
use super::mmio_map::MmioMap;
use crate::alarms::Alarms;
use crate::clock::BoardClock;
use crate::config::VirtConfig;
use crate::console::Console;
use crate::{Error, Result, lock, shared};
use devices::arm::{self, Pl011, Pl031, Pl061, PowerButton};
use devices::virtio::transport_mmio;
use devices::virtio::{Block, Device, Entropy, Runner, VirtioMmio};
use devices::wiring::Clock;
use engine::Vm;
use memory::GuestMemory;
use std::sync::{Arc, Mutex};

/// The chips that the board itself reaches, and the map by which the guest reaches all of them.
pub struct Devices {
    pub mmio: MmioMap,
    pub console: Console<Pl011>,
    pub power_button: Arc<Mutex<PowerButton>>,
    rtc: Arc<Mutex<Pl031>>,
    gpio: Arc<Mutex<Pl061>>,
    /// By slot.
    pub virtio: Vec<Arc<Mutex<VirtioMmio>>>,
}

impl Devices {
    /// Everything at power-on, the virtio devices' threads started; they are put into `runners`, by what messages call them.
    pub fn new(
        config: &VirtConfig,
        memory: &Arc<GuestMemory>,
        clock: &Arc<BoardClock>,
        alarms: &Arc<Alarms>,
        vm: &Arc<dyn Vm>,
        runners: &mut Vec<(String, Arc<Runner>)>,
    ) -> Result<Self> {
        let clock: Arc<dyn Clock> = clock.clone();
        let mut mmio = MmioMap::default();
        let taken = |e: super::mmio_map::Taken| Error::Config(e.to_string());

        let (console, hvc0) =
            Console::new(config.console.clone(), |end| Pl011::new(Spi::line(vm, spi::UART), end));
        mmio.claim(UART, arm::LEN, console.uart.clone()).map_err(taken)?;

        let alarm = alarms.create();
        let rtc = shared(Pl031::new(clock.clone(), alarm.alarm(), Spi::line(vm, spi::RTC)));
        alarm.connect(&rtc);
        mmio.claim(RTC, arm::LEN, rtc.clone()).map_err(taken)?;

        let gpio = shared(Pl061::new(Spi::line(vm, spi::GPIO)));
        mmio.claim(GPIO, arm::LEN, gpio.clone()).map_err(taken)?;
        let alarm = alarms.create();
        let power_button = shared(PowerButton::new(gpio.clone(), POWER_BUTTON_PIN, clock, alarm.alarm()));
        alarm.connect(&power_button);

        // Disks first: Linux names them by their order in the device tree.
        let mut plugged: Vec<(String, Box<dyn Device>)> = Vec::new();
        for (i, image) in config.disks.iter().enumerate() {
            let name = format!("disk{i}");
            plugged.push((name.clone(), Box::new(Block::new(image.clone(), &name))));
        }
        if config.entropy {
            plugged.push(("entropy".to_string(), Box::new(Entropy::new())));
        }
        plugged.push(("console".to_string(), Box::new(hvc0)));
        if plugged.len() > VIRTIO_MOST {
            return Err(Error::Config(format!(
                "too many devices: a virt machine has {VIRTIO_MOST} places for disks and its other virtio devices, not {}",
                plugged.len()
            )));
        }
        let mut virtio = Vec::new();
        for (slot, (name, device)) in plugged.into_iter().enumerate() {
            let line = Spi::line(vm, spi::VIRTIO + slot as u32);
            let device = VirtioMmio::new(device, memory.clone(), line);
            let runner = device.runner().clone();
            runner
                .spawn(&format!("{} {name}", config.name))
                .map_err(|source| Error::Thread { what: "a virtio device", source })?;
            runners.push((name, runner));
            let device = shared(device);
            let base = VIRTIO + slot as u64 * transport_mmio::LEN;
            mmio.claim(base, transport_mmio::LEN, device.clone()).map_err(taken)?;
            virtio.push(device);
        }
        Ok(Self { mmio, console, power_button, rtc, gpio, virtio })
    }

    /// The board's reset, as all chips see it.
    pub fn reset(&self) {
        lock(&self.rtc).reset();
        lock(&self.power_button).reset();
        lock(&self.gpio).reset();
        for device in &self.virtio {
            lock(device).reset();
        }
        self.console.reset();
    }
}
