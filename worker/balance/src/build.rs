//! From a spec to a balancer.

use crate::error::Error;
use crate::face::Balancer;
use crate::pipeline::Pipeline;
use espalier_spec::balancer::BalancerSpec;
use espalier_spec::check;

/// The balancer of a spec, for a job whose tasks have these weights (which only `mean` and `fixed`
/// use).
///
/// # Errors
/// The spec breaks a rule of its own; how many tasks a method needs is the job's check, since a
/// step may have fewer anyway.
pub fn build(spec: &BalancerSpec, task_weights: &[f64]) -> Result<Box<dyn Balancer>, Error> {
    if let Some(violation) = check::balancer(spec, None).into_iter().next() {
        return Err(Error::Spec(violation));
    }
    if task_weights.is_empty() {
        return Err(Error::Shape {
            what: "task weights",
            expected: "at least one task".to_owned(),
            found: "none".to_owned(),
        });
    }
    Ok(Box::new(Pipeline::new(spec, task_weights)))
}
