use super::*;
use crate::model::{TokenBatch, images};
use crate::torch;
use espalier_spec::job::Tuning;
use serde_json::{Value, json};

const TEXTS: [&[u32]; 4] = [&[3, 4, 7, 2], &[3, 9], &[5, 6, 8, 10, 2, 3], &[9, 2]];
const ROWS: &str = "def forward(self, ids, mask):
  x = torch.embedding(self.table, ids) * mask.unsqueeze(-1)
  return torch.tanh(torch.matmul(x, self.weight) + self.bias)
";
const PIXELS: &str = "def forward(self, x):
  return torch.matmul(torch.flatten(x, 1), self.weight)
";

fn values(size: &[i64]) -> Tensor {
    let count = size.iter().product::<i64>();
    let numbers = Tensor::arange(count, (Kind::Float, Device::Cpu));
    (numbers * 0.7 + 0.1).sin().view(size)
}

fn parameters() -> [(&'static str, Tensor); 3] {
    let sizes: [(&str, &[i64]); 3] = [("table", &[20, 4]), ("weight", &[4, 3]), ("bias", &[3])];
    sizes.map(|(name, size)| (name, values(size)))
}

fn directory(code: &str, parameters: &[(&str, Tensor)], config: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = json!({"model_type": TORCHSCRIPT, "width": 3, "modality": "text"});
    let fields = config.as_object().unwrap().clone();
    whole.as_object_mut().unwrap().extend(fields);
    std::fs::write(dir.path().join(CONFIG), whole.to_string()).unwrap();
    let parameters: Vec<(&str, &Tensor)> = parameters.iter().map(|(n, t)| (*n, t)).collect();
    torch::write_script(&dir.path().join("model.pt"), code, &parameters).unwrap();
    dir
}

fn load(dir: &Path, init: Init) -> Result<Script, Error> {
    let options = Options {
        init,
        seed: 1,
        tuning: Tuning::All,
        pooling: Pooling::Mean,
        dropout: None,
        device: Device::Cpu,
    };
    Script::load(&Source::open(dir).unwrap(), &options)
}

fn features(script: &Script, batch: &Batch) -> Tensor {
    let x = script.input(batch).unwrap();
    let rows = script.forward(0, &x, batch, &Context::eval()).unwrap();
    script.pool(&rows, batch).unwrap()
}

fn near(one: &Tensor, other: &Tensor) -> bool {
    one.size() == other.size() && (one - other).abs().max().double_value(&[]) < 1e-5
}

fn texts() -> Batch {
    Batch::Tokens(TokenBatch::pack(&TEXTS, &[1, 2, 3, 4], Device::Cpu).unwrap())
}

// Promise: the module computes what its code says, for each text as if it were alone; its gradients are in
// the block's flat buffer, and what is written into the flat parameters is what it computes with.
#[test]
fn the_blocks_buffers_are_the_modules_memory() {
    let dir = directory(ROWS, &parameters(), json!({}));
    let mut script = load(dir.path(), Init::Pretrained).unwrap();
    script.blocks[0].set_slots(2).unwrap();
    script.blocks[0].bind(1).unwrap();
    let batch = texts();
    let ours = features(&script, &batch);

    let [table, weight, bias] = parameters().map(|(_, tensor)| tensor.set_requires_grad(true));
    let alone = TEXTS.map(|text| {
        let ids: Vec<i64> = text.iter().map(|&id| i64::from(id)).collect();
        let x = table.index_select(0, &Tensor::from_slice(&ids));
        let y = (x.matmul(&weight) + &bias).tanh();
        y.mean_dim(&[0i64][..], false, Kind::Float)
    });
    let theirs = Tensor::stack(&alone, 0);
    assert!(near(&ours, &theirs));

    for output in [&ours, &theirs] {
        (output * output).sum(Kind::Float).backward();
    }
    let block = &script.blocks[0];
    assert!(
        torch::data(block.slot(0).unwrap())
            .unwrap()
            .iter()
            .all(|&g| g == 0.0)
    );
    for (place, expected) in [&table, &weight, &bias].into_iter().enumerate() {
        let range = block.range(place);
        let (start, length) = (range.start as i64, range.len() as i64);
        let slot = block.slot(1).unwrap().narrow(0, start, length);
        assert!(near(&slot, &expected.grad().view(-1)), "{place}");
    }

    let _ = block.flat().shallow_clone().zero_();
    assert_eq!(features(&script, &batch).abs().max().double_value(&[]), 0.0);
}

// Promise: images go through as they are, and a module may give one vector of each sample.
#[test]
fn images_and_pooled_features() {
    let weight = [("weight", values(&[4, 3]))];
    let config = json!({"modality": "image", "num_channels": 1, "image_size": 2});
    let dir = directory(PIXELS, &weight, config);
    let script = load(dir.path(), Init::Pretrained).unwrap();
    assert!(!script.gives_rows());
    let pixels: [&[f32]; 2] = [&[1.0, 0.0, 0.0, 0.0], &[0.0, 0.0, 2.0, 0.0]];
    let batch = images(&pixels, &[1, 2], [1, 2, 2], Device::Cpu).unwrap();
    let expected = Tensor::stack(&[weight[0].1.get(0), weight[0].1.get(2) * 2.0], 0);
    assert!(near(&features(&script, &batch), &expected));
}

// Promise: what is written has the trained parameters, and is a module that loads again.
#[test]
fn trained_parameters_are_written_back() {
    let dir = directory(ROWS, &parameters(), json!({}));
    let script = load(dir.path(), Init::Pretrained).unwrap();
    let _ = script.blocks[0].flat().shallow_clone().g_mul_scalar_(0.5);
    let target = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(CONFIG), target.path().join(CONFIG)).unwrap();
    let config = json!({});
    let tensors = script.export().unwrap();
    write(
        dir.path(),
        target.path(),
        config.as_object().unwrap(),
        &tensors,
    )
    .unwrap();
    let again = load(target.path(), Init::Pretrained).unwrap();
    assert!(near(
        &features(&again, &texts()),
        &features(&script, &texts())
    ));
    assert!(again.blocks[0].trainable());
}

// Promise: a file that is no module, parameters of another kind and outputs of another shape are told
// before anything is trained, with what was expected.
#[test]
fn wrong_modules_are_told() {
    let said = |dir: &Path, init: Init, part: &str| {
        let message = load(dir, init).unwrap_err().to_string();
        assert!(message.contains(part), "{part}: {message}");
    };
    let good = directory(ROWS, &parameters(), json!({}));
    said(good.path(), Init::Random, "remove backbone.init");
    std::fs::write(good.path().join("model.pt"), "no module").unwrap();
    said(good.path(), Init::Pretrained, "torch.jit.save");
    std::fs::remove_file(good.path().join("model.pt")).unwrap();
    said(good.path(), Init::Pretrained, "cannot read model.pt");

    let wide = directory(ROWS, &parameters(), json!({"width": 5}));
    said(
        wide.path(),
        Init::Pretrained,
        "expected [2, 5] or [2, 3, 5]",
    );
    let sounds = directory(ROWS, &parameters(), json!({"modality": "audio"}));
    said(sounds.path(), Init::Pretrained, "image_size");
    let mixed = directory(ROWS, &parameters(), json!({"input": "pixels"}));
    said(mixed.path(), Init::Pretrained, "ids+mask");
    let few = directory(ROWS, &parameters(), json!({"input": "ids"}));
    said(few.path(), Init::Pretrained, "forward failed");
    let double = parameters().map(|(name, tensor)| (name, tensor.to_kind(Kind::Double)));
    let double = directory(ROWS, &double, json!({}));
    said(double.path(), Init::Pretrained, "parameter table is Double");
    let nothing = directory(
        "def forward(self, ids, mask):\n  return ids\n",
        &[],
        json!({}),
    );
    said(nothing.path(), Init::Pretrained, "no parameters");
}
