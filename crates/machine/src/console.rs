//! A VM's one console for people, and the guest's two devices behind it: the board's UART and the virtio console hvc0.
//!
//! What the guest sends through either appears on the console's [`Output`], in the order in which it came; a device of
//! whose bytes the output takes fewer than it was offered is held until [`Console::output_ready`], and the other is not.
//! What a person types goes to the device that the guest wrote through last, the UART after a
//! reset.
//!
//! Order of locks: a device's own, then the [`Switch`]'s, under which nothing is called.

use crate::config::Output;
use crate::lock;
use devices::virtio::{self, ConsoleHandle};
use devices::wiring::{SerialOutput, SerialPort};
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Port {
    #[default]
    Uart,
    Hvc0,
}

/// Where input goes.
#[derive(Default)]
struct Front {
    port: Port,
    /// That device refused some: there is somebody to tell when another takes its place.
    refused: bool,
}

/// What the devices share.
struct Switch {
    output: Arc<dyn Output>,
    front: Mutex<Front>,
}

impl Switch {
    /// Input goes to `port` from now on. True: somebody waits for it to be taken.
    fn turn(&self, port: Port) -> bool {
        let mut front = lock(&self.front);
        front.port != port && {
            front.port = port;
            std::mem::take(&mut front.refused)
        }
    }
}

/// A device's end of its line.
struct End {
    port: Port,
    switch: Arc<Switch>,
}

impl SerialOutput for End {
    fn write(&mut self, bytes: &[u8]) -> usize {
        if !bytes.is_empty() && self.switch.turn(self.port) {
            self.switch.output.input_room();
        }
        self.switch.output.write(bytes)
    }
    fn input_room(&mut self) {
        self.switch.output.input_room();
    }
}

/// The console and its devices.
pub struct Console<U> {
    switch: Arc<Switch>,
    /// For the board to give it its registers' place.
    pub uart: Arc<Mutex<U>>,
    hvc0: ConsoleHandle,
}

impl<U: SerialPort> Console<U> {
    /// With the UART that `uart` makes for its end of the line. The virtio device is for the board to plug in.
    pub fn new(
        output: Arc<dyn Output>,
        uart: impl FnOnce(Box<dyn SerialOutput>) -> U,
    ) -> (Self, virtio::Console) {
        let switch = Arc::new(Switch { output, front: Mutex::default() });
        let end = |port| Box::new(End { port, switch: switch.clone() }) as Box<dyn SerialOutput>;
        let uart = Arc::new(Mutex::new(uart(end(Port::Uart))));
        let (device, hvc0) = virtio::Console::new(end(Port::Hvc0));
        (Self { switch, uart, hvc0 }, device)
    }

    /// Types `bytes`; gives how many were taken. With the rest, come again after [`Output::input_room`].
    pub fn input(&self, bytes: &[u8]) -> usize {
        let port = lock(&self.switch.front).port;
        let taken = match port {
            Port::Uart => lock(&self.uart).input(bytes),
            Port::Hvc0 => self.hvc0.input(bytes),
        };
        if taken < bytes.len() {
            let mut front = lock(&self.switch.front);
            if front.port == port {
                front.refused = true;
            } else {
                // The guest went over to the other device meanwhile, which has not been asked yet.
                drop(front);
                self.switch.output.input_room();
            }
        }
        taken
    }

    /// The output has room again.
    pub fn output_ready(&self) {
        lock(&self.uart).output_ready();
        self.hvc0.output_ready();
    }

    /// The board's reset, which has reached the virtio device before. As the UART's, the input that hvc0's driver has not taken is
    /// not for the system that is booted next.
    pub fn reset(&self) {
        lock(&self.uart).reset();
        self.hvc0.clear_input();
        if self.switch.turn(Port::Uart) {
            self.switch.output.input_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::legacy::Uart16550;
    use devices::wiring::{NotConnected, PortDevice};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// An output with so much room.
    struct Screen {
        room: AtomicUsize,
        text: Mutex<Vec<u8>>,
        told_of_room: AtomicUsize,
    }

    impl Output for Screen {
        fn write(&self, bytes: &[u8]) -> usize {
            let n = bytes.len().min(self.room.load(SeqCst));
            self.room.fetch_sub(n, SeqCst);
            lock(&self.text).extend_from_slice(&bytes[..n]);
            n
        }
        fn input_room(&self) {
            self.told_of_room.fetch_add(1, SeqCst);
        }
    }

    struct Bench {
        console: Console<Uart16550>,
        hvc0: End,
        screen: Arc<Screen>,
    }

    impl Bench {
        fn new(room: usize) -> Self {
            let screen =
                Arc::new(Screen { room: room.into(), text: Mutex::default(), told_of_room: 0.into() });
            let (console, _device) =
                Console::new(screen.clone(), |end| Uart16550::new(NotConnected::line(), end));
            let hvc0 = End { port: Port::Hvc0, switch: console.switch.clone() };
            Self { console, hvc0, screen }
        }
        fn com1_sends(&self, byte: u8) {
            lock(&self.console.uart).write(0, &[byte]);
        }
        fn com1_receives(&self) -> Option<u8> {
            let mut uart = lock(&self.console.uart);
            let mut data = [0];
            uart.read(5, &mut data);
            (data[0] & 1 != 0).then(|| {
                uart.read(0, &mut data);
                data[0]
            })
        }
        fn told_of_room(&self) -> usize {
            self.screen.told_of_room.load(SeqCst)
        }
    }

    #[test]
    fn input_follows_the_device_written_through_last() {
        let mut b = Bench::new(100);
        assert_eq!(b.console.input(b"1"), 1);
        assert_eq!(b.com1_receives(), Some(b'1'), "COM1 before any output");
        assert_eq!(b.hvc0.write(b"hvc"), 3);
        assert_eq!((b.console.input(b"23"), b.com1_receives()), (2, None));
        assert_eq!(b.hvc0.write(b""), 0);
        b.com1_sends(b'c');
        assert_eq!((b.console.input(b"4"), b.com1_receives()), (1, Some(b'4')));
        assert_eq!(*lock(&b.screen.text), b"hvcc");
        b.hvc0.write(b"x");
        b.console.reset();
        assert_eq!((b.console.input(b"5"), b.com1_receives()), (1, Some(b'5')), "COM1 after a reset");
    }

    #[test]
    fn refused_input_is_asked_for_again_when_the_other_device_takes_over() {
        let mut b = Bench::new(100);
        assert_eq!(b.console.input(b"abc"), 1, "a UART without FIFOs has room for one byte");
        b.hvc0.write(b"login: ");
        assert_eq!(b.told_of_room(), 1);
        b.hvc0.write(b"more");
        assert_eq!(b.told_of_room(), 1, "told once");
        let long = vec![b'y'; 1 << 20];
        let taken = b.console.input(&long);
        assert!((1..long.len()).contains(&taken), "what waits for hvc0 is bounded: {taken}");
        assert_eq!(b.console.input(b"z"), 0);
        b.console.reset();
        assert_eq!(b.told_of_room(), 3, "by COM1's receiver, and since input goes to it again");
        b.hvc0.write(b"again");
        assert_eq!(b.console.input(&long), taken, "what hvc0's driver had not taken is forgotten");
    }

    #[test]
    fn full_output_holds_each_device_by_itself_and_loses_nothing() {
        let mut b = Bench::new(0);
        b.com1_sends(b'a');
        assert_eq!(b.hvc0.write(b"bc"), 0);
        let mut status = [0];
        lock(&b.console.uart).read(5, &mut status);
        assert_eq!(status[0] & 0x20, 0, "THR is not empty");
        b.screen.room.store(2, SeqCst);
        b.console.output_ready();
        lock(&b.console.uart).read(5, &mut status);
        assert_eq!(status[0] & 0x20, 0x20);
        assert_eq!((b.hvc0.write(b"bc"), b.hvc0.write(b"c")), (1, 0));
        assert_eq!(*lock(&b.screen.text), b"ab");
    }
}
