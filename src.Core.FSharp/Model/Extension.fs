/// Growing a pre-trained model's embedding table and head to an extended vocabulary.
module Hybrid.Extension

open TorchSharp

/// How the new rows of a table start.
type NewRows =
    /// open_lm's truncated normal: the same values that a model which starts at random has in these rows
    | OpenLmNormal
    /// The mean of the old rows
    | MeanOfOld
    /// Normal with the mean and covariance of the old rows
    | MeanAndCovariance
    /// These rows [new, D] for the embedding table (from alignment, say); the head starts as OpenLmNormal
    | Given of torch.Tensor
    /// Copies of old rows in both tables, by their numbers; a negative number leaves a row as OpenLmNormal has it
    | CopiesOf of int[]

/// Rows [count, D] of N(mean, covariance) of old rows [n, D]: mean + z √W Vᵀ with z standard normal and V W Vᵀ the covariance
/// (n − 1), whatever its rank. Draws count · D normal values.
let private likeOld (stream: Random.Stream) (count: int64) (old_ND: torch.Tensor) =
    let n, d = old_ND.shape[0], old_ND.shape[1]
    let mean = old_ND.mean ([| 0L |], true)
    let centred = (old_ND.sub mean).``to`` torch.float64
    let covariance = centred.t().matmul(centred).div(Scalars.Of(float (max 1L (n - 1L))))
    let struct (variances, directions) = torch.linalg.eigh covariance
    let root = directions.mul(variances.clamp_min(Scalars.Of 0.0).sqrt()).``to`` torch.float32
    let z = Array.init (int (count * d)) (fun i -> float32 (Random.normal stream (int64 i)))
    (Host.floats [ count; d ] z).``to``(old_ND.device).matmul(root.t ()).plus mean

/// The configuration with `rows` rows. Errors: ShapeException when that is fewer than there are.
let grow (rows: int) (config: ModelConfig) : ModelConfig =
    if rows < config.Rows then
        raise (ShapeException $"a table of {config.Rows} rows cannot be extended to {rows}.")

    if rows = config.Rows then
        config
    else
        { config with Rows = rows; ExtendedAt = config.ExtendedAt @ [ config.Rows ] }

/// Fills a store laid out for the grown configuration with the weights of the old one: old rows and all other parameters are
/// copied bit for bit, new rows start as told. The stream is the one that a random twin would be initialised with, so that the
/// twins share their new rows under OpenLmNormal. `source` gives the old model's fp32 values by name; each is released.
/// Errors: ShapeException when a shape does not fit.
let fill
    (stream: Random.Stream)
    (newRows: NewRows)
    (oldRows: int64)
    (source: string -> torch.Tensor)
    (target: ParameterStore)
    : unit =
    use _ = torch.no_grad ()
    Parameters.initialise stream target

    for slot in target.Slots do
        use scope = torch.NewDisposeScope()
        let name = slot.Spec.Name
        use destination = target.MasterOf name
        use old: torch.Tensor = source name

        if ParameterName.isTable name then
            let added = slot.Spec.Shape.Head - oldRows
            Shape.require name [ oldRows; slot.Spec.Shape[1] ] old
            destination.narrow(0, 0L, oldRows).copy_ old |> ignore

            if added > 0L then
                let rows = destination.narrow (0, oldRows, added)

                match newRows with
                | OpenLmNormal -> ()
                | MeanOfOld -> rows.copy_ (old.mean([| 0L |], true).expand(added, slot.Spec.Shape[1])) |> ignore
                | MeanAndCovariance ->
                    let sample = likeOld (Random.named ("rows of " + name) stream) added (old.``to`` torch.float32)
                    rows.copy_ sample |> ignore
                | Given given ->
                    if name = "tok_embeddings.weight" then
                        Shape.require "the given rows" [ added; slot.Spec.Shape[1] ] given
                        rows.copy_ given |> ignore
                | CopiesOf numbers ->
                    if int64 numbers.Length <> added then
                        raise (ShapeException $"{added} new rows were given {numbers.Length} rows to copy.")

                    numbers
                    |> Array.iteri (fun row number ->
                        if number >= 0 then
                            use target = rows.narrow (0, int64 row, 1L)
                            use old = old.narrow (0, int64 number, 1L)
                            target.copy_ old |> ignore)
        else
            Shape.require name slot.Spec.Shape old
            destination.copy_ old |> ignore

    target.Refresh()
