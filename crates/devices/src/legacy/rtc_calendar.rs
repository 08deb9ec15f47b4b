//! The RTC's time of day and date in its registers' formats.

/// Seconds in a day.
pub(super) const DAY: i64 = 86_400;

/// How the registers are encoded: bits of register B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// DM: binary instead of BCD.
    pub binary: bool,
    /// 24 hours instead of 12 with bit 7 for p.m.
    pub hours_24: bool,
}

impl Format {
    fn encode(self, value: u8) -> u8 {
        if self.binary { value } else { (value / 10) << 4 | (value % 10) }
    }

    fn decode(self, register: u8) -> u8 {
        if self.binary { register } else { (register >> 4).saturating_mul(10).saturating_add(register & 15) }
    }

    fn encode_hour(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    pub(super) fn decode_hour(self, register: u8) -> u8 {
        if self.hours_24 {
            return self.decode(register);
        }
        self.decode(register & 0x7f) % 12 + if register & 0x80 != 0 { 12 } else { 0 }
    }
}

/// The time registers: seconds, minutes, hours, day of the week (1 is Sunday), day of the month, month, year, century.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimeRegisters {
    pub second: u8,
    pub minute: u8,
    pub hour: u8,
    pub weekday: u8,
    pub day: u8,
    pub month: u8,
    pub year: u8,
    pub century: u8,
}

impl TimeRegisters {
    /// The registers at `seconds` since the Unix epoch; years wrap within four digits.
    pub(super) fn at(seconds: i64, format: Format) -> Self {
        let (days, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = date_of(days);
        let year = year.rem_euclid(10_000);
        Self {
            second: format.encode((time % 60) as u8),
            minute: format.encode((time / 60 % 60) as u8),
            hour: format.encode_hour((time / 3600) as u8),
            // 1 January 1970 was a Thursday.
            weekday: format.encode((days + 4).rem_euclid(7) as u8 + 1),
            day: format.encode(day),
            month: format.encode(month),
            year: format.encode((year % 100) as u8),
            century: format.encode((year / 100) as u8),
        }
    }

    /// Seconds since the Unix epoch. Values that are no date count on from the beginning of what they overflow.
    pub(super) fn seconds(&self, format: Format) -> i64 {
        let year = i64::from(format.decode(self.century)) * 100 + i64::from(format.decode(self.year));
        let month = i64::from(format.decode(self.month).clamp(1, 12));
        let days = days_of(year, month, 1) + i64::from(format.decode(self.day)) - 1;
        days * DAY
            + i64::from(format.decode_hour(self.hour)) * 3600
            + i64::from(format.decode(self.minute)) * 60
            + i64::from(format.decode(self.second))
    }
}

/// Days since 1 January 1970 of a date in the Gregorian calendar. Years are counted from March, so that the leap day is
/// the last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date (year, month, day) of a day since 1 January 1970.
fn date_of(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

/// The alarm registers, each a value or "any" (bits 7:6 both set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alarm {
    second: Option<u8>,
    minute: Option<u8>,
    hour: Option<u8>,
}

impl Alarm {
    pub(super) fn new(second: u8, minute: u8, hour: u8, format: Format) -> Self {
        let field = |register: u8, value: u8| (register < 0xc0).then_some(value);
        Self {
            second: field(second, format.decode(second)),
            minute: field(minute, format.decode(minute)),
            hour: field(hour, format.decode_hour(hour)),
        }
    }

    /// The first second after `seconds` that matches; `None` where no time of day does.
    pub(super) fn after(&self, seconds: i64) -> Option<i64> {
        let matches = |field: Option<u8>, value: i64| field.is_none_or(|f| i64::from(f) == value);
        let start = seconds + 1;
        let midnight = start - start.rem_euclid(DAY);
        // By hours and minutes, at most 1,500 of them, from the one that `start` is in to the same of the next day.
        let first_minute = start.rem_euclid(DAY) / 60;
        let first_hour = first_minute / 60;
        for hour in first_hour..=first_hour + 24 {
            if !matches(self.hour, hour % 24) {
                continue;
            }
            for minute in 0..60 {
                let at = midnight + (hour * 60 + minute) * 60;
                if at + 59 < start || !matches(self.minute, minute) {
                    continue;
                }
                let second = match self.second {
                    Some(second) if second > 59 => return None,
                    Some(second) => i64::from(second),
                    None => (start - at).max(0),
                };
                if at + second >= start {
                    return Some(at + second);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BCD_24: Format = Format { binary: false, hours_24: true };

    #[test]
    fn registers_of_known_moments_are_as_calendars_say() {
        let table = [
            (0, [0x00, 0x00, 0x00, 5, 0x01, 0x01, 0x70, 0x19]),
            (951_782_399, [0x59, 0x59, 0x23, 2, 0x28, 0x02, 0x00, 0x20]),
            (951_782_400, [0x00, 0x00, 0x00, 3, 0x29, 0x02, 0x00, 0x20]),
            (1_795_291_200, [0x00, 0x00, 0x20, 7, 0x21, 0x11, 0x26, 0x20]),
            (-1, [0x59, 0x59, 0x23, 4, 0x31, 0x12, 0x69, 0x19]),
        ];
        for (seconds, [second, minute, hour, weekday, day, month, year, century]) in table {
            let expected = TimeRegisters { second, minute, hour, weekday, day, month, year, century };
            assert_eq!(TimeRegisters::at(seconds, BCD_24), expected, "{seconds}");
        }
    }

    #[test]
    fn twelve_hour_clock_has_noon_and_midnight_as_twelve() {
        let format = Format { binary: true, hours_24: false };
        for (hour, register) in [(0, 12), (1, 1), (11, 11), (12, 0x8c), (13, 0x81), (23, 0x8b)] {
            assert_eq!(format.encode_hour(hour), register);
            assert_eq!(format.decode_hour(register), hour);
        }
    }

    proptest! {
        #[test]
        fn registers_of_any_moment_decode_back(seconds in -62_167_219_200i64..253_402_300_800, binary: bool, hours_24: bool) {
            let format = Format { binary, hours_24 };
            prop_assert_eq!(TimeRegisters::at(seconds, format).seconds(format), seconds);
        }

        #[test]
        fn seconds_of_any_register_bytes_are_finite(bytes: [u8; 8], binary: bool, hours_24: bool) {
            let [second, minute, hour, weekday, day, month, year, century] = bytes;
            let registers = TimeRegisters { second, minute, hour, weekday, day, month, year, century };
            let seconds = registers.seconds(Format { binary, hours_24 });
            prop_assert!(seconds.unsigned_abs() < 1 << 40);
        }

        #[test]
        fn alarm_after_any_moment_is_the_first_match(
            start in 0i64..200_000, second in 0u8..70, minute in 0u8..70, hour in 0u8..30, any in 0u8..8,
        ) {
            let binary = Format { binary: true, hours_24: true };
            let field = |bit: u8, value: u8| if any & bit != 0 { 0xff } else { value };
            let alarm = Alarm::new(field(1, second), field(2, minute), field(4, hour), binary);
            let fits = |t: i64| {
                (any & 1 != 0 || t % 60 == i64::from(second))
                    && (any & 2 != 0 || t / 60 % 60 == i64::from(minute))
                    && (any & 4 != 0 || t / 3600 % 24 == i64::from(hour))
            };
            prop_assert_eq!(alarm.after(start), (start + 1..=start + DAY).find(|&t| fits(t)));
        }
    }
}
