//! The pc's chips, made and wired to each other.

use super::interrupts::{Interrupts, PicPorts};
use super::io_map::{PCI_IO_WINDOW, PM_BASE, irq};
use super::memory_map::{FOUR_GIB, MemoryMap, PCI_HOLE, PCI_WINDOW_END};
use super::port_map::PortMap;
use crate::alarms::Alarms;
use crate::clock::BoardClock;
use crate::config::{Output, PcConfig};
use crate::console::Console;
use crate::{Error, Result, lock, shared};
use devices::legacy::{
    AcpiPm, DebugCon, DebugExit, I8042, Pit8254, Port92, PostCode, Rtc, SmiCommand, Speaker, Uart16550,
    debug_exit, i8042, pit8254, pm, port92, post_code, rtc, speaker, uart16550,
};
use devices::pci::chipset::add_chipset;
use devices::pci::{ConfigPorts, IntxRouter, PciBus, Windows, config_ports};
use devices::virtio::{self, Block, Device, Entropy, Runner};
use devices::wiring::{BoardControl, Clock, SerialOutput};
use irqchip::pic8259::port as pic_port;
use memory::GuestMemory;
use std::sync::{Arc, Mutex};

/// The chips that the board itself reaches, and the maps by which the guest reaches all of them.
pub struct Devices {
    pub ports: PortMap,
    pub pci: Arc<PciBus>,
    pub console: Console<Uart16550>,
    pub pm: Arc<Mutex<AcpiPm>>,
    pit: Arc<Mutex<Pit8254>>,
    rtc: Arc<Mutex<Rtc>>,
    speaker: Arc<Mutex<Speaker>>,
    keyboard: Arc<Mutex<I8042>>,
    port92: Arc<Mutex<Port92>>,
    config_ports: Arc<Mutex<ConfigPorts>>,
}

/// The debug console's output as the device wants it.
struct ToOutput(Arc<dyn Output>);

impl SerialOutput for ToOutput {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }
}

impl Devices {
    /// Everything at power-on, the virtio devices' threads started; they are put into `runners`, by what messages call them.
    pub fn new(
        config: &PcConfig,
        map: &MemoryMap,
        memory: &Arc<GuestMemory>,
        clock: &Arc<BoardClock>,
        alarms: &Arc<Alarms>,
        interrupts: &Arc<Interrupts>,
        control: Arc<dyn BoardControl>,
        runners: &mut Vec<(String, Arc<Runner>)>,
    ) -> Result<Self> {
        let clock: Arc<dyn Clock> = clock.clone();
        let mut ports = PortMap::default();
        let mut claim = |first, count, device| {
            ports.claim(first, count, device).map_err(|e| Error::Config(e.to_string()))
        };

        for (first, count) in
            [(pic_port::MASTER_COMMAND, 2), (pic_port::SLAVE_COMMAND, 2), (pic_port::MASTER_ELCR, 2)]
        {
            claim(first, count, shared(PicPorts { interrupts: interrupts.clone(), first }))?;
        }

        let alarm = alarms.create();
        let pit = shared(Pit8254::new(clock.clone(), alarm.alarm(), interrupts.isa_line(irq::TIMER)));
        alarm.connect(&pit);
        claim(pit8254::FIRST_PORT, pit8254::PORTS, pit.clone())?;
        let speaker = shared(Speaker::new(pit.clone(), clock.clone()));
        claim(speaker::PORT, 1, speaker.clone())?;

        let alarm = alarms.create();
        let rtc = shared(Rtc::new(clock.clone(), alarm.alarm(), interrupts.isa_line(irq::RTC)));
        alarm.connect(&rtc);
        let above = map.ranges().iter().find(|r| r.base == FOUR_GIB).map_or(0, |r| r.len);
        lock(&rtc).set_memory_size(map.extended_end(), above);
        claim(rtc::INDEX_PORT, rtc::PORTS, rtc.clone())?;

        let alarm = alarms.create();
        let sci = interrupts.isa_line(irq::SCI);
        let pm = shared(AcpiPm::new(clock, alarm.alarm(), sci, control.clone(), true));
        alarm.connect(&pm);
        claim(PM_BASE, pm::PORTS, pm.clone())?;
        claim(pm::SMI_COMMAND_PORT, 2, shared(SmiCommand::new(pm.clone())))?;

        let keyboard = shared(I8042::new(interrupts.isa_line(irq::KEYBOARD), control.clone()));
        claim(i8042::DATA_PORT, 1, keyboard.clone())?;
        claim(i8042::COMMAND_PORT, 1, shared(i8042::CommandPort::new(keyboard.clone())))?;

        let (console, hvc0) =
            Console::new(config.console.clone(), |end| Uart16550::new(interrupts.isa_line(irq::COM1), end));
        claim(uart16550::COM1, uart16550::PORTS, console.uart.clone())?;

        let port92 = shared(Port92::new(control.clone()));
        claim(port92::PORT, 1, port92.clone())?;
        claim(post_code::PORT, 1, shared(PostCode::new()))?;

        let router = IntxRouter::new(
            (0..16).map(|number| interrupts.isa_line(number)).collect(),
            (0..4).map(|index| interrupts.pirq_line(index)).collect(),
        );
        let windows = Windows { io: PCI_IO_WINDOW, memory: PCI_HOLE..PCI_WINDOW_END };
        let mut pci = PciBus::new(windows, router);
        let full = |e: devices::pci::Error| Error::Config(e.to_string());
        add_chipset(&mut pci, PM_BASE).map_err(full)?;
        let mut plug = |name: String, device: Box<dyn Device>| -> Result<()> {
            let thread = format!("{} {name}", config.name);
            let runner = virtio::plug(&mut pci, device, memory.clone(), interrupts.clone(), &thread)
                .map_err(|e| Error::Config(e.to_string()))?;
            runners.push((name, runner));
            Ok(())
        };
        for (i, image) in config.disks.iter().enumerate() {
            let name = format!("disk{i}");
            plug(name.clone(), Box::new(Block::new(image.clone(), &name)))?;
        }
        if config.entropy {
            plug("entropy".to_string(), Box::new(Entropy::new()))?;
        }
        plug("console".to_string(), Box::new(hvc0))?;
        let pci = Arc::new(pci);
        let config_ports = shared(ConfigPorts::new(pci.clone(), control.clone()));
        claim(config_ports::BASE, 8, config_ports.clone())?;

        if let Some(port) = config.debug_exit {
            claim(port, debug_exit::PORTS, shared(DebugExit::new(control)))?;
        }
        for &port in &config.debugcon {
            claim(port, 1, shared(DebugCon::new(Box::new(ToOutput(config.debugcon_output.clone())))))?;
        }
        Ok(Self { ports, pci, console, pm, pit, rtc, speaker, keyboard, port92, config_ports })
    }

    /// RESET#, as all chips see it.
    pub fn reset(&self) {
        lock(&self.pit).reset();
        lock(&self.rtc).reset();
        lock(&self.speaker).reset();
        lock(&self.pm).reset();
        lock(&self.keyboard).reset();
        lock(&self.port92).reset();
        lock(&self.config_ports).reset();
        self.pci.reset();
        self.console.reset();
    }
}
