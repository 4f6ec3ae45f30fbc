//! What keeps a balancer from finding weights.

/// What keeps a balancer from finding weights. Tasks are named by their index in the job.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A loss is no finite number.
    #[error(
        "the loss of tasks {tasks:?} is not a finite number at step {step}; lower the learning \
         rate, look at the data, or set balancer.on_non_finite: skip_task_step"
    )]
    LossNotFinite {
        /// The tasks.
        tasks: Vec<usize>,
        /// The step.
        step: u64,
    },
    /// A gradient is no finite number.
    #[error(
        "the gradient of tasks {tasks:?} is not a finite number at step {step}; lower the learning \
         rate, look at the data, or set balancer.on_non_finite: skip_task_step"
    )]
    GradientNotFinite {
        /// The tasks.
        tasks: Vec<usize>,
        /// The step.
        step: u64,
    },
    /// Every task of the step had to be dropped.
    #[error("no task has a finite loss and gradient at step {step}: nothing is left to train on")]
    NothingLeft {
        /// The step.
        step: u64,
    },
    /// A method that divides by losses or takes their logarithm met one below 0.
    #[error(
        "the loss of task {task} is {loss}, but this balancer needs losses of at least 0; use \
         another one, such as upgrad"
    )]
    NegativeLoss {
        /// The task.
        task: usize,
        /// Its loss.
        loss: f64,
    },
    /// The caller left out what [`crate::Needs`] asks for.
    #[error("balancer {method} needs {what}, which the step did not bring")]
    Missing {
        /// The method.
        method: espalier_spec::job::Method,
        /// What is missing.
        what: &'static str,
    },
    /// Numbers of the wrong shape.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Which numbers.
        what: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The spec breaks a rule.
    #[error("{0}")]
    Spec(espalier_spec::Violation),
    /// A state does not belong to this balancer.
    #[error(
        "the saved state of the balancer does not fit: {what}; start the job anew to change it"
    )]
    State {
        /// What does not fit.
        what: String,
    },
}
