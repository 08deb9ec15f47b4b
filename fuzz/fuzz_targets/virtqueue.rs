//! A split virtqueue whose rings hold anything at all, and change under the device.
#![no_main]

use fuzz::Driver;
use libfuzzer_sys::fuzz_target;
use memory::virtqueue::Queue;

/// Chains taken at most: a driver that keeps making them available is no fault of the queue's.
const CHAINS: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let Some(mut driver) = Driver::new(data) else { return };
    let Ok(mut queue) = Queue::new(driver.memory.clone(), driver.layout, driver.options) else { return };
    let mut buffer = [0; 300];
    for _ in 0..CHAINS {
        let Ok(Some(chain)) = queue.pop() else { break };
        driver.meddle();
        let mut reader = chain.reader();
        while matches!(reader.read(&mut buffer), Ok(1..)) {}
        let mut writer = chain.writer();
        while matches!(writer.write(&buffer), Ok(1..)) {}
        if queue.push_used(chain.head(), writer.written()).is_err() {
            break;
        }
        let _ = queue.needs_interrupt();
        let _ = queue.enable_notification();
    }
    if queue.is_broken() {
        assert!(queue.pop().is_err(), "a broken queue gives nothing any more");
    }
});
