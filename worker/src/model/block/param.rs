//! What a block's parameters are, and where they lie.

use espalier_spec::job::AdapterKind;
use std::ops::Range;
use tch::Tensor;

/// What a block is built from.
#[derive(Debug)]
pub struct ParamSpec {
    /// Full Hugging Face name, such as `encoder.layer.0.output.dense.weight`.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// Whether weight decay applies: not to biases and norms.
    pub decay: bool,
    /// What it is to the layers that low-rank updates may be added to.
    pub role: Role,
    /// Whether it is trained, where its block is.
    pub trained: bool,
    /// Hugging Face names of its equal parts along the first dimension, where one of our
    /// parameters holds several of theirs (query, key and value); else empty.
    pub parts: Vec<String>,
    /// The part of a layer that a linear layer's output is, and its width, where an adapter may stand
    /// behind it.
    pub gives: Option<(Part, i64)>,
}

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Attention.
    Attention,
    /// The feed-forward part.
    Feed,
}

/// What a parameter is to low-rank updates and adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Plain,
    /// The matrix [out, in] of a linear layer: it may get one.
    Linear,
    /// The same, stored as [in, out].
    Transposed,
    /// Part of one; not in a model's files.
    Update,
    /// Part of an adapter; not in a model's file of weights.
    Adapter(AdapterKind),
    /// Learned vectors before those of each sample; not in a model's file of weights.
    Prompt,
    /// Learned keys or values of a layer, of so many heads; not in a model's file of weights.
    Prefix(i64),
}

impl Role {
    /// Whether it belongs to an adapter.
    pub(in crate::model) fn is_adapter(self) -> bool {
        matches!(self, Self::Adapter(_))
    }

    /// Whether it is beside the pretrained model, whose file of weights does not hold it.
    pub(in crate::model) fn is_beside(self) -> bool {
        let is_virtual = matches!(self, Self::Prompt | Self::Prefix(_));
        self == Self::Update || self.is_adapter() || is_virtual
    }
}

impl ParamSpec {
    /// A weight matrix: decays.
    pub fn weight(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            decay: true,
            role: Role::Plain,
            trained: true,
            parts: Vec::new(),
            gives: None,
        }
    }

    /// The matrix [out, in] of a linear layer: a weight that low-rank updates may be added to.
    pub fn linear(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            role: Role::Linear,
            ..Self::weight(name, shape)
        }
    }

    /// The matrix of a linear layer that is stored as [in, out], as GPT-2 has them.
    pub fn transposed(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            role: Role::Transposed,
            ..Self::weight(name, shape)
        }
    }

    /// A bias or the parameter of a norm: does not decay.
    pub fn bias(name: impl Into<String>, shape: &[i64]) -> Self {
        Self {
            decay: false,
            ..Self::weight(name, shape)
        }
    }

    /// Says that what its linear layer gives, `width` numbers for each row, is what a part of a layer of
    /// the model gives.
    #[must_use]
    pub fn giving(mut self, part: Part, width: i64) -> Self {
        self.gives = Some((part, width));
        self
    }

    /// Says which Hugging Face parameters it holds, one after another along the first dimension.
    #[must_use]
    pub fn made_of(mut self, parts: Vec<String>) -> Self {
        self.parts = parts;
        self
    }
}

/// A parameter: a view into its block's flat buffer.
#[derive(Debug)]
pub struct Param {
    /// Full Hugging Face name.
    pub name: String,
    /// The view, an autograd leaf whose `.grad` is the same place of the flat gradient.
    pub tensor: Tensor,
    /// Where it lies, among the trained numbers or, if `frozen`, among the others.
    pub(super) range: Range<usize>,
    pub(super) frozen: bool,
    pub(in crate::model) role: Role,
    /// The matrix of a linear layer, stored as [in, out].
    pub(in crate::model) is_transposed: bool,
    pub(super) parts: Vec<String>,
}

/// A piece of a parameter that has a Hugging Face name of its own.
pub(in crate::model) struct Piece<'a> {
    pub(in crate::model) name: &'a str,
    pub(in crate::model) shape: Vec<i64>,
    pub(super) range: Range<usize>,
    pub(super) frozen: bool,
    pub(in crate::model) role: Role,
}

impl Param {
    /// Whether it is not trained: its range lies among such numbers.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Its Hugging Face names.
    pub(in crate::model) fn names(&self) -> Vec<&str> {
        match self.parts.is_empty() {
            true => vec![&self.name],
            false => self.parts.iter().map(String::as_str).collect(),
        }
    }

    /// What has a Hugging Face name.
    pub(super) fn pieces(&self) -> Vec<Piece<'_>> {
        let mut shape = self.tensor.size();
        let piece = |name, shape, range| Piece {
            name,
            shape,
            range,
            frozen: self.frozen,
            role: self.role,
        };
        if self.parts.is_empty() {
            return vec![piece(&self.name, shape, self.range.clone())];
        }
        let count = self.parts.len();
        shape[0] /= count as i64;
        let length = self.range.len() / count;
        let start = |index: usize| self.range.start + index * length;
        let pieces = self.parts.iter().enumerate();
        pieces
            .map(|(i, name)| piece(name, shape.clone(), start(i)..start(i) + length))
            .collect()
    }
}
