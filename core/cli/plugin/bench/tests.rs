use super::*;

#[test]
fn sizes_are_read_as_people_write_them() {
    for (text, bytes) in [("0", 0), ("500", 500), ("2k", 2048), ("2KiB", 2048), ("100kb", 102_400), ("1M", 1 << 20)] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "k", "two", "-1", "1g", "33m", "99999999999999999999k"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn the_text_is_as_long_as_was_asked_for() {
    assert_eq!(prose(0), "");
    assert_eq!(prose(2048).len(), 2048);
}

#[test]
fn sizes_are_told_in_three_units() {
    assert_eq!([0, 1023, 1025, 3 << 20].map(bytes), ["0 B", "1023 B", "2 KiB", "3.0 MiB"].map(String::from));
}
