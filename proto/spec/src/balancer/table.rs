//! The table of methods.

use super::Method;
use super::methods::{Class, MethodInfo, ParamInfo, Range};

const fn row(
    method: Method,
    name: &'static str,
    class: Class,
    paper: &'static str,
    min_tasks: usize,
    params: &'static [ParamInfo],
) -> MethodInfo {
    MethodInfo {
        method,
        name,
        class,
        paper,
        min_tasks,
        params,
    }
}

const fn param(
    name: &'static str,
    default: f64,
    range: Range,
    meaning: &'static str,
    source: &'static str,
) -> ParamInfo {
    ParamInfo {
        name,
        default,
        range,
        meaning,
        source,
    }
}

const RATE: ParamInfo = param(
    "lr",
    0.01,
    Range::above(0.0),
    "learning rate of the Adam that learns the tasks' scales",
    "ours; papers learn them with the model's optimizer",
);

const REG: ParamInfo = param(
    "reg",
    1e-4,
    Range::new(0.0, 1.0),
    "added to the diagonal of the Gram matrix over its trace; 0 is exact up to 1e-12",
    "TorchJD, LibMTL",
);

const ALIGNED_SCALE: ParamInfo = param(
    "scale_mode",
    0.0,
    Range::whole(0.0, 2.0),
    "the singular value that all are brought to: 0 the smallest, 1 the median, 2 the root of the mean square",
    "paper, LibMTL, TorchJD",
);

/// All methods, in the order of [`Method`].
#[rustfmt::skip] // a table: one line a method, one a parameter
pub static METHODS: [MethodInfo; 32] = [
    row(Method::Mean, "mean", Class::Losses, "the plain mean over the batch", 1, &[]),
    row(Method::Equal, "equal", Class::Losses, "equal weighting (linear scalarisation)", 1, &[]),
    row(Method::Fixed, "fixed", Class::Losses, "weights given by hand", 1, &[]),
    row(Method::Si, "si", Class::Losses, "Navon et al. 2022, arXiv 2202.01017 (baseline)", 1, &[]),
    row(Method::Rlw, "rlw", Class::Losses, "Lin et al. 2022, arXiv 2111.10603", 2, &[]),
    row(Method::Uw, "uw", Class::Losses, "Kendall et al. 2018, arXiv 1705.07115", 1, &[
        RATE,
        param("init", 0.0, Range::new(-20.0, 20.0), "log variance of every task at the start", "TorchJD, nash-mtl; LibMTL has -0.5"),
    ]),
    row(Method::Dwa, "dwa", Class::Losses, "Liu et al. 2019, arXiv 1803.10704", 2, &[
        param("temperature", 2.0, Range::above(0.0), "the larger, the more even", "paper, LibMTL, TorchJD"),
        param("window", 0.0, Range::whole(0.0, 1e15), "steps that a loss is averaged over; 0: an epoch", "paper: an epoch"),
    ]),
    row(Method::Gls, "gls", Class::Losses, "Chennupati et al. 2019 (MultiNet++)", 2, &[]),
    row(Method::Stch, "stch", Class::Losses, "Lin et al. 2024, arXiv 2402.19078", 2, &[
        param("mu", 1.0, Range::above(0.0), "smoothness; towards 0 only the worst task counts", "LibMTL"),
        param("warmup", 4.0, Range::whole(0.0, 1e6), "epochs of log losses before; the next one's mean losses are the nadir. 0: the first step's losses are", "LibMTL"),
    ]),
    row(Method::Famo, "famo", Class::Losses, "Liu et al. 2023, arXiv 2306.03792", 2, &[
        param("lr", 0.025, Range::above(0.0), "learning rate of the logits' Adam", "paper"),
        param("decay", 1e-3, Range::at_least(0.0), "weight decay of the logits", "paper's Algorithm 2, LibMTL, TorchJD"),
    ]),
    row(Method::ImtlL, "imtl_l", Class::Losses, "Liu et al. 2021 (ICLR, IMTL)", 1, &[RATE]),
    row(Method::Gradnorm, "gradnorm", Class::Gram, "Chen et al. 2018, arXiv 1711.02257", 2, &[
        param("alpha", 1.5, Range::at_least(0.0), "strength of the pull to a common rate", "paper, LibMTL"),
        param("lr", 0.025, Range::above(0.0), "learning rate of the logits' Adam", "ours"),
    ]),
    row(Method::Mgda, "mgda", Class::Gram, "Sener and Koltun 2018, arXiv 1810.04650", 2, &[]),
    row(Method::Pcgrad, "pcgrad", Class::Gram, "Yu et al. 2020, arXiv 2001.06782", 2, &[]),
    row(Method::Gradvac, "gradvac", Class::Gram, "Wang et al. 2021, arXiv 2010.05874", 2, &[
        param("beta", 0.5, Range::new(0.0, 1.0), "share of this step's cosine in the target", "LibMTL, TorchJD"),
    ]),
    row(Method::Cagrad, "cagrad", Class::Gram, "Liu et al. 2021, arXiv 2110.14048", 2, &[
        param("c", 0.5, Range::new(0.0, 10.0), "radius of the ball, as a share of the mean gradient's norm", "LibMTL, paper"),
        param("rescale", 1.0, Range::whole(0.0, 2.0), "divide the update by: 0 nothing, 1 1+c², 2 1+c", "LibMTL, the authors' code"),
    ]),
    row(Method::ImtlG, "imtl_g", Class::Gram, "Liu et al. 2021 (ICLR, IMTL)", 2, &[]),
    row(Method::NashMtl, "nash_mtl", Class::Gram, "Navon et al. 2022, arXiv 2202.01017", 2, &[]),
    row(Method::Fairgrad, "fairgrad", Class::Gram, "Ban and Ji 2024, arXiv 2402.15638", 2, &[
        param("alpha", 2.0, Range::new(0.1, 100.0), "fairness: 1 is nash_mtl, towards 0 equal weights", "the authors' scripts; LibMTL has 1"),
    ]),
    row(Method::AlignedMtl, "aligned_mtl", Class::Gram, "Senushkin et al. 2023, arXiv 2305.19000", 2, &[ALIGNED_SCALE]),
    row(Method::Upgrad, "upgrad", Class::Gram, "Quinton and Rey 2024, arXiv 2406.16232", 2, &[REG]),
    row(Method::DualProj, "dual_proj", Class::Gram, "Lopez-Paz and Ranzato 2017, arXiv 1706.08840", 2, &[REG]),
    row(Method::Config, "config", Class::Gram, "Liu et al. 2024, arXiv 2408.11104", 2, &[]),
    row(Method::Moco, "moco", Class::Buffers, "Fernando et al. 2023 (ICLR, MoCo)", 2, &[
        param("beta", 0.5, Range::new(0.0, 1.0), "share of this step's gradient in the tracked one", "LibMTL"),
        param("beta_sigma", 0.5, Range::at_least(0.0), "beta falls with step^-beta_sigma", "LibMTL"),
        param("gamma", 0.1, Range::above(0.0), "learning rate of the multipliers", "LibMTL"),
        param("gamma_sigma", 0.5, Range::at_least(0.0), "gamma falls with step^-gamma_sigma", "LibMTL"),
        param("rho", 0.0, Range::at_least(0.0), "L2 regularisation of the multipliers", "LibMTL"),
    ]),
    row(Method::DbMtl, "db_mtl", Class::Buffers, "Lin et al. 2023, arXiv 2308.12029", 2, &[
        param("beta", 0.9, Range::below(0.0, 1.0), "share of the past in the tracked gradient", "LibMTL"),
        param("beta_sigma", 0.0, Range::at_least(0.0), "beta falls with step^-beta_sigma", "LibMTL"),
    ]),
    row(Method::ExcessMtl, "excess_mtl", Class::Buffers, "He et al. 2024 (ICML, ExcessMTL)", 2, &[
        param("eta", 0.01, Range::above(0.0), "learning rate of the weights", "LibMTL; TorchJD has 1"),
        param("warmup", 1.0, Range::whole(1.0, 1e15), "steps whose mean excess is the unit; weights are 1 till then", "LibMTL: the first step; the paper: 3 epochs"),
    ]),
    row(Method::GradDrop, "grad_drop", Class::Elementwise, "Chen et al. 2020, arXiv 2010.06808", 2, &[
        param("leak", 0.0, Range::new(0.0, 1.0), "share of a dropped coordinate that stays", "LibMTL, TorchJD"),
    ]),
    row(Method::TrimmedMean, "trimmed_mean", Class::Elementwise, "Yin et al. 2018, arXiv 1803.01498", 3, &[
        param("trim", 1.0, Range::whole(0.0, 1e6), "tasks left out at each end", "ours"),
    ]),
    row(Method::Sdmgrad, "sdmgrad", Class::TwoBatch, "Xiao et al. 2023, arXiv 2305.18409", 2, &[
        param("lambda", 0.3, Range::at_least(0.0), "pull to the mean gradient", "the authors' code, TorchJD"),
        param("lr", 10.0, Range::above(0.0), "step of the inner solver", "the authors' code, TorchJD"),
        param("momentum", 0.5, Range::below(0.0, 1.0), "momentum of the inner solver", "the authors' code, TorchJD"),
        param("iterations", 20.0, Range::whole(1.0, 1e4), "steps of the inner solver", "the authors' code, TorchJD"),
    ]),
    row(Method::Modo, "modo", Class::TwoBatch, "Chen et al. 2024 (JMLR 25, MoDo)", 2, &[
        param("gamma", 0.1, Range::above(0.0), "learning rate of the multipliers", "TorchJD, LibMTL"),
        param("rho", 0.1, Range::at_least(0.0), "L2 regularisation of the multipliers", "TorchJD, LibMTL"),
    ]),
    row(Method::MgdaUb, "mgda_ub", Class::Representation, "Sener and Koltun 2018, arXiv 1810.04650", 2, &[]),
    row(Method::AlignedUb, "aligned_ub", Class::Representation, "Senushkin et al. 2023, arXiv 2305.19000", 2, &[ALIGNED_SCALE]),
];
