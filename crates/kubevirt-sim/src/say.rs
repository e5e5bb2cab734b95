//! One line that a test run shows even when it passes: how much was tried.
//!
//! Owns nothing. Never says what a failure is: that is the panic's message.

use std::io::{Write, stderr};

/// Says a line on stderr. The test harness keeps what `println!` prints of a test that passes to itself; it doesn't
/// keep what is written to the stream. The line goes out whole, whatever other tests say at the same moment.
pub fn say(line: &str) {
    let line = format!("    {line}\n");
    // a test doesn't fail because nobody listens
    let _ = stderr().lock().write_all(line.as_bytes());
}
