//! Progress of long work: a spinner where a terminal watches, a plain line elsewhere. On standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One step under way; dropping it ends the spinner.
pub struct Step {
    bar: ProgressBar,
}

impl Step {
    /// Says that `what` has begun.
    pub fn begin(what: impl Into<String>) -> Step {
        let what = what.into();
        if !rustix::termios::isatty(rustix::stdio::stderr()) {
            eprintln!("{what}");
            return Step { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Step { bar }
    }

    /// Says how far it is.
    pub fn change(&mut self, what: String) {
        if self.bar.is_hidden() {
            eprintln!("{what}");
        } else {
            self.bar.set_message(what);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.bar.is_hidden() {
            let what = self.bar.message();
            self.bar.finish_and_clear();
            if !std::thread::panicking() {
                eprintln!("{what}");
            }
        }
    }
}
