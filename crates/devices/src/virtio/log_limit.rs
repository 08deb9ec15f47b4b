//! A guest or a broken host can make the same thing go wrong a million times a second; the log says it once a second.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one message a second through.
#[derive(Debug, Default)]
pub struct LogLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// Whether to log now; if so, how many messages were left out since the last one.
    pub fn allow(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|l| now.duration_since(l) < INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_in_a_burst_lets_one_through() {
        let mut limit = LogLimit::default();
        assert_eq!(limit.allow(), Some(0));
        assert!((0..1000).all(|_| limit.allow().is_none()));
        limit.last = Some(Instant::now() - INTERVAL);
        assert_eq!(limit.allow(), Some(1000));
    }
}
