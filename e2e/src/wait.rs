//! Waiting: says what it waits for, asks again every now and then, and fails with what it saw last.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at again.
const PERIOD: Duration = Duration::from_millis(300);
/// How often a long wait says that it still waits.
const SPEAK: Duration = Duration::from_secs(20);

/// What a look at the world found.
pub enum Look<T> {
    /// What was waited for.
    Done(T),
    /// Not yet, and how it stands.
    NotYet(String),
}

/// `Done` when true, else `NotYet` with how it stands.
pub fn when(yes: bool, how_it_stands: impl Display) -> anyhow::Result<Look<()>> {
    Ok(if yes { Look::Done(()) } else { Look::NotYet(how_it_stands.to_string()) })
}

/// Looks until done. A look that fails counts as not yet: the API may be unavailable for a moment.
///
/// # Errors
/// When `limit` is over, with what was seen last.
pub async fn until<T, F>(what: impl Display, limit: Duration, mut look: F) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> anyhow::Result<Look<T>>,
{
    let begun = Instant::now();
    let mut spoken = begun;
    loop {
        let seen = match look().await {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::NotYet(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if begun.elapsed() > limit {
            bail!("waited {} s for {what}; last seen: {seen}", limit.as_secs());
        }
        if spoken.elapsed() > SPEAK {
            println!("    waiting for {what} ({} s): {seen}", begun.elapsed().as_secs());
            spoken = Instant::now();
        }
        tokio::time::sleep(PERIOD).await;
    }
}
