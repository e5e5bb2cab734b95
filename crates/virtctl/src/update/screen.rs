//! Shows a view: bars on a terminal, a line for each change elsewhere.

use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::{COMPONENTS, Row, View};
use crate::terminal::say;

pub(super) enum Screen {
    Bars { all: MultiProgress, title: ProgressBar, rows: Vec<ProgressBar>, waiting: ProgressBar },
    Lines { last: Option<String> },
}

impl Screen {
    pub(super) fn new() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines { last: None };
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let text = ProgressStyle::with_template("{wide_msg}").expect("the template is valid");
        let bar = ProgressStyle::with_template("{prefix:16} [{bar:30.green}] {pos}/{len} {msg}")
            .expect("the template is valid")
            .progress_chars("=> ");
        let line = |style: &ProgressStyle| all.add(ProgressBar::new(0).with_style(style.clone()));
        let title = line(&text);
        let rows = COMPONENTS.map(|component| {
            let row = line(&bar);
            row.set_prefix(component);
            row
        });
        let waiting = line(&text);
        Self::Bars { all, title, rows: rows.into(), waiting }
    }

    pub(super) fn show(&mut self, view: &View) {
        match self {
            Self::Bars { title, rows, waiting, .. } => {
                title.set_message(view.title.clone());
                for (bar, row) in rows.iter().zip(&view.rows) {
                    bar.set_length(row.wanted as u64);
                    bar.set_position(row.updated as u64);
                    bar.set_message(note(row));
                }
                waiting.set_message(waits(view));
            }
            Self::Lines { last } => {
                let line = line(view);
                if last.as_ref() != Some(&line) {
                    say(&line);
                    *last = Some(line);
                }
            }
        }
    }

    pub(super) fn finish(&self, message: &str) {
        match self {
            Self::Bars { title, rows, waiting, .. } => {
                title.finish();
                rows.iter().for_each(ProgressBar::finish);
                waiting.finish_with_message(message.to_owned());
            }
            Self::Lines { .. } => say(message),
        }
    }
}

impl Drop for Screen {
    /// What was shown last stays, also when it ends badly.
    fn drop(&mut self) {
        if let Self::Bars { all, title, rows, waiting } = self {
            for bar in [&*title, &*waiting].into_iter().chain(rows.iter()) {
                bar.abandon();
            }
            // A full terminal line must not hide the last state; there is nobody left to tell.
            let _ = all.println("");
        }
    }
}

fn note(row: &Row) -> String {
    if row.old == 0 { String::new() } else { format!("({} old)", row.old) }
}

fn waits(view: &View) -> String {
    if view.waiting.is_empty() { String::new() } else { format!("waiting for {}", view.waiting.join("; ")) }
}

fn line(view: &View) -> String {
    let rows = view.rows.iter().map(|row| {
        let note = note(row);
        let note = if note.is_empty() { note } else { format!(" {note}") };
        format!("{} {}/{}{note}", row.component, row.updated, row.wanted)
    });
    let waits = waits(view);
    let parts = std::iter::once(view.title.clone()).chain(rows).chain((!waits.is_empty()).then_some(waits));
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::progress::Outcome;

    #[test]
    fn a_line_tells_all() {
        let row = |component, updated, old| Row { component, updated, wanted: 2, old };
        let view = View {
            title: "KubeVirt v0.17.0 -> v0.18.0".into(),
            target: "v0.18.0".into(),
            rows: vec![row("virt-handler", 2, 0), row("virt-controller", 1, 1)],
            waiting: vec!["virt-controller (1 of 2 ready)".into()],
            outcome: Outcome::GoingOn,
        };
        assert_eq!(
            line(&view),
            "KubeVirt v0.17.0 -> v0.18.0, virt-handler 2/2, virt-controller 1/2 (1 old), \
             waiting for virt-controller (1 of 2 ready)"
        );
    }
}
