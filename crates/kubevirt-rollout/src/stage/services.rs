//! Services, disruption budgets, the operator's own webhook: what neither grants, runs nor guards.

use crate::context::{Context, Outcome};
use crate::order::Class;

pub(crate) fn apply(context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    for manifest in context.of_class(Class::Base) {
        if let Some(manifest) = context.with_ca(manifest) {
            context.view.ensure(&manifest, &mut outcome);
        }
    }
    outcome
}
