//! From a launcher's words to ours. Pure. A word that a newer launcher may say is `Unclear`.

use handler_launcher_com::launcher::{self, DomainPhase};

use crate::vmi::knowledge::{Domain, DomainInterface, DomainState};

impl From<launcher::DomainState> for Domain {
    fn from(said: launcher::DomainState) -> Self {
        let state = match DomainPhase::try_from(said.phase) {
            Ok(DomainPhase::NotStarted) => DomainState::NotStarted,
            Ok(DomainPhase::Starting) => DomainState::Starting,
            Ok(DomainPhase::Running) => DomainState::Running,
            Ok(DomainPhase::Paused) => DomainState::Paused,
            Ok(DomainPhase::ShuttingDown) => DomainState::ShuttingDown,
            Ok(DomainPhase::Shutoff) => DomainState::Shutoff,
            Ok(DomainPhase::Crashed) => DomainState::Crashed,
            Ok(DomainPhase::Unknown) | Err(_) => DomainState::Unclear,
        };
        let interfaces =
            said.interfaces.into_iter().map(|i| DomainInterface { name: i.name, mac: i.mac }).collect();
        Self { state, reason: said.reason, detail: said.exit_detail, interfaces }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_meaning_and_new_ones_mean_nothing() {
        let table = [
            (0, DomainState::Unclear),
            (1, DomainState::NotStarted),
            (2, DomainState::Starting),
            (3, DomainState::Running),
            (4, DomainState::Paused),
            (5, DomainState::ShuttingDown),
            (6, DomainState::Shutoff),
            (7, DomainState::Crashed),
            (8, DomainState::Unclear),
        ];
        for (phase, state) in table {
            let said = launcher::DomainState { phase, ..Default::default() };
            assert_eq!(Domain::from(said).state, state, "{phase}");
        }
    }
}
