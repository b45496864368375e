//! Numbers as people write them.

use bytesize::ByteSize;

/// How many of something, in words: `1 worker`, `2 workers`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A number of bytes as people write it: `64 B`, `16 KiB`.
pub(crate) fn payload(bytes: u64) -> String {
    match bytes {
        kibibytes if kibibytes >= 1 << 10 && kibibytes.is_multiple_of(1 << 10) => {
            ByteSize(bytes).display().iec().to_string().replace(".0 ", " ")
        }
        _ => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_written_as_people_do() {
        for (bytes, text) in
            [(64, "64 B"), (1000, "1000 B"), (1024, "1 KiB"), (1536, "1536 B"), (1 << 20, "1 MiB")]
        {
            assert_eq!(payload(bytes), text);
        }
    }
}
