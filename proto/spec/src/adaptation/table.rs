//! The table of methods.

use super::{Adapt, AdaptInfo, Sees};
use crate::balancer::{ParamInfo, Range};

const fn row(
    method: Adapt,
    name: &'static str,
    sees: Sees,
    paper: &'static str,
    weight: f64,
    params: &'static [ParamInfo],
) -> AdaptInfo {
    AdaptInfo {
        method,
        name,
        sees,
        paper,
        weight,
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

const HIDDEN: ParamInfo = param(
    "hidden",
    256.0,
    Range::whole(1.0, 8192.0),
    "width of the hidden layers of the domain classifier",
    "ours, for small backbones (TLLib: 1024 for ResNet-50)",
);
const DROPOUT: ParamInfo = param(
    "dropout",
    0.0,
    Range::below(0.0, 1.0),
    "share of what hidden layers of the domain classifier give that is dropped in training",
    "TLLib (the authors of CDAN: 0.5)",
);
const KERNELS: ParamInfo = param(
    "kernels",
    5.0,
    Range::whole(1.0, 16.0),
    "Gaussian kernels, each of twice the bandwidth of the one before",
    "TLLib (2^-3 to 2^1)",
);
const SMALLEST: ParamInfo = param(
    "smallest",
    0.125,
    Range::above(0.0),
    "bandwidth of the narrowest kernel, in mean squared distances of the batch",
    "TLLib (2^-3)",
);

/// Every method, in order of [`Adapt`].
pub const METHODS: [AdaptInfo; 13] = [
    row(
        Adapt::Dann,
        "dann",
        Sees::Features,
        "Ganin et al. 2016, arXiv 1505.07818",
        1.0,
        &[HIDDEN, DROPOUT],
    ),
    row(
        Adapt::Cdan,
        "cdan",
        Sees::Classes,
        "Long et al. 2018, arXiv 1705.10667",
        1.0,
        &[
            HIDDEN,
            DROPOUT,
            param(
                "entropy",
                0.0,
                Range::whole(0.0, 1.0),
                "1 (or true): samples of sure predictions weigh more (CDAN+E)",
                "the paper names both",
            ),
            param(
                "reversed_entropy",
                0.0,
                Range::whole(0.0, 1.0),
                "1 (or true): `entropy` as in the authors' code: weights of mean 1 in each domain, and a \
                 reversed gradient through them",
                "TLLib, which has neither",
            ),
        ],
    ),
    row(
        Adapt::Mmd,
        "mmd",
        Sees::Features,
        "DAN: Long et al. 2015, arXiv 1502.02791",
        1.0,
        &[KERNELS, SMALLEST],
    ),
    row(
        Adapt::Jan,
        "jan",
        Sees::Classes,
        "Long et al. 2017, arXiv 1605.06636",
        1.0,
        &[
            KERNELS,
            SMALLEST,
            param(
                "sigma",
                0.92,
                Range::above(0.0),
                "bandwidth of the one kernel on probabilities",
                "TLLib",
            ),
        ],
    ),
    row(
        Adapt::Coral,
        "coral",
        Sees::Features,
        "Deep CORAL: Sun and Saenko 2016, arXiv 1607.01719",
        1.0,
        &[],
    ),
    row(
        Adapt::Mcc,
        "mcc",
        Sees::Classes,
        "Jin et al. 2020, arXiv 1912.03699",
        1.0,
        &[param(
            "temperature",
            2.5,
            Range::above(0.0),
            "outputs are divided by it",
            "the paper",
        )],
    ),
    row(
        Adapt::Mdd,
        "mdd",
        Sees::Classes,
        "Zhang et al. 2019, arXiv 1904.05801",
        0.1,
        &[
            param(
                "hidden",
                256.0,
                Range::whole(1.0, 8192.0),
                "width of the hidden layer of the second head",
                "ours, for small backbones (TLLib: 1024 for ResNet-50)",
            ),
            param(
                "margin",
                4.0,
                Range::above(0.0),
                "factor on the source's part: exp of the margin",
                "TLLib and the authors (3 or 4 by data set)",
            ),
        ],
    ),
    row(
        Adapt::Entropy,
        "entropy",
        Sees::Classes,
        "Grandvalet and Bengio 2004",
        1.0,
        &[],
    ),
    row(
        Adapt::SelfTraining,
        "self_training",
        Sees::Classes,
        "Lee 2013 (pseudo-labels), with the threshold of FixMatch: Sohn et al. 2020, arXiv 2001.07685",
        1.0,
        &[param(
            "threshold",
            0.95,
            Range::below(0.0, 1.0),
            "predictions of at least this probability are taken for labels",
            "FixMatch",
        )],
    ),
    row(
        Adapt::Adabn,
        "adabn",
        Sees::Features,
        "Li et al. 2016, arXiv 1603.04779",
        1.0,
        &[],
    ),
    row(
        Adapt::Bsp,
        "bsp",
        Sees::Features,
        "Chen et al. 2019, ICML (batch spectral penalization)",
        1.0,
        &[
            HIDDEN,
            param(
                "penalty",
                1e-4,
                Range::at_least(0.0),
                "factor on the squares of the largest singular values",
                "the paper (TLLib: 2e-4)",
            ),
        ],
    ),
    row(
        Adapt::Afn,
        "afn",
        Sees::Features,
        "SAFN, HAFN: Xu et al. 2019, arXiv 1811.07456",
        0.05,
        &[
            param(
                "step",
                1.0,
                Range::above(0.0),
                "how much a norm is to grow in a step",
                "the paper",
            ),
            param(
                "radius",
                0.0,
                Range::at_least(0.0),
                "what mean norms are to be, in place of growing (HAFN); 0: they grow (SAFN)",
                "SAFN, the better one in the paper (HAFN there: 25)",
            ),
        ],
    ),
    row(
        Adapt::InformationMaximisation,
        "information_maximisation",
        Sees::Classes,
        "the target's part of SHOT: Liang et al. 2020, arXiv 2002.08546",
        1.0,
        &[param(
            "diversity",
            1.0,
            Range::at_least(0.0),
            "factor on the entropy of the mean prediction",
            "SHOT",
        )],
    ),
];
