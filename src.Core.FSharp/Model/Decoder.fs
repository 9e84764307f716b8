/// The decoder: embed >> blocks >> norm >> head, each a function that a script can take by itself.
/// Architecture: pre-norm blocks as open_lm has them, with what Llama, GPT-NeoX, GPT-2 and their like differ in.
module Hybrid.Decoder

open TorchSharp

/// Blocks whose weights come and go.
[<NoEquality; NoComparison>]
type GatheredBlocks =
    {
        /// The weights with those of a block, which is one of a backward pass or not
        Enter: int -> bool -> Weights
        /// The backward pass of a block is over
        Leave: int -> unit
    }

/// How a forward pass goes about its work; what comes out is the same up to rounding.
[<NoEquality; NoComparison>]
type Pass =
    {
        /// What of each block is kept for the backward pass
        Checkpointing: Checkpointing
        /// Is told of each part when it is over
        Lap: Phase -> unit
        /// Is told in the backward pass of each block that, with all above it, has its gradients
        Passed: (int -> unit) option
        /// The weights of blocks that are there only while these compute
        Gathered: GatheredBlocks option
    }

/// All that the gradients need is kept.
let plainPass: Pass = { Checkpointing = Checkpointing.None; Lap = ignore; Passed = None; Gathered = None }

// `places` takes the rows of the table of positions to each token's own.
let private embedding
    (config: ModelConfig)
    (weights: Weights)
    (length: int64)
    (places: torch.Tensor -> torch.Tensor)
    (tokens: torch.Tensor)
    : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let x = Dispatcher.embedding (weights "tok_embeddings.weight") tokens

    let x =
        if config.Position <> LearnedPosition then
            x
        elif length > int64 config.Positions then
            raise (
                ShapeException
                    $"a sequence of {length} positions is longer than the model's table of {config.Positions} learned positions."
            )
        else
            x.plus (places ((weights "pos_embeddings.weight").narrow(0, 0L, length)))

    let x =
        if config.PostEmbedNorm then
            Layers.norm config.Norm config.NormEpsilon weights "post_embed_norm" x
        else
            x

    x.MoveToOuterDisposeScope()

/// x_BTD of tokens_BT: rows of the embedding table, with the positions' rows added or normalised where the model says so. Errors:
/// ShapeException for a position that a table of positions has no row for.
let embed (config: ModelConfig) (weights: Weights) (tokens_BT: torch.Tensor) : torch.Tensor =
    embedding config weights tokens_BT.shape[1] id tokens_BT

/// x_ND of the tokens of packed rows, [N].
let packedEmbed (config: ModelConfig) (weights: Weights) (rows: PackedRows) (tokens_N: torch.Tensor) : torch.Tensor =
    let column (table: torch.Tensor) = rows.Places.remainder (Scalars.Of rows.Positions) |> Dispatcher.embedding table
    embedding config weights rows.Positions column tokens_N

/// One block: x + attention(norm x), then + feedForward(norm x), which reads x itself where the two are parallel.
let private blockOf
    (lap: Phase -> unit)
    (config: ModelConfig)
    (weights: Weights)
    (rotation: Rotation option)
    (rows: PackedRows option)
    (layer: int)
    (x_BTD: torch.Tensor)
    : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let prefix = $"layers.{layer}"
    let norm name = Layers.norm config.Norm config.NormEpsilon weights $"{prefix}.{name}"

    let mixed =
        Layers.packedAttention config weights $"{prefix}.attention" rotation rows (norm "attention_norm" x_BTD)

    let x = x_BTD.plus mixed
    lap Phase.Attention
    let read = if config.ParallelResidual then x_BTD else x
    let x = x.plus (Layers.feedForward config weights prefix (norm "ffn_norm" read))
    lap Phase.FeedForward
    x.MoveToOuterDisposeScope()

/// One block of the model.
let block (config: ModelConfig) (weights: Weights) (rotation: Rotation option) (layer: int) (x_BTD: torch.Tensor) : torch.Tensor =
    blockOf ignore config weights rotation None layer x_BTD

let private blockParameters (config: ModelConfig) (layer: int) : ParameterSpec list =
    let prefix = $"layers.{layer}"

    [
        yield! Layers.normParameters config.Norm $"{prefix}.attention_norm" config.Width
        yield! Layers.attentionParameters config layer $"{prefix}.attention"
        yield! Layers.normParameters config.Norm $"{prefix}.ffn_norm" config.Width
        yield! Layers.feedForwardParameters config layer prefix
    ]

/// One block of the model, of x_BTD or of packed rows [N, D], as the pass says.
let blockBy
    (pass: Pass)
    (config: ModelConfig)
    (weights: Weights)
    (rotation: Rotation option)
    (rows: PackedRows option)
    (layer: int)
    (x: torch.Tensor)
    : torch.Tensor =
    let x =
        match pass.Passed with
        | Some passed -> Milestone.mark (fun () -> passed layer) x
        | None -> x

    let whole (over: unit -> unit) (enter: unit -> Weights) (parameters: torch.Tensor list) =
        let tables =
            match rotation with
            | Some rotation -> [ rotation.Cosine; rotation.Sine ]
            | None -> []

        let run (tables: torch.Tensor list) (x: torch.Tensor) =
            let rotation =
                match tables with
                | [ cosine; sine ] -> Some { Cosine = cosine; Sine = sine }
                | _ -> None

            blockOf ignore config (enter ()) rotation rows layer x

        let result = Recompute.wholeThen over run tables parameters x
        pass.Lap Phase.Block
        result

    match pass.Gathered, pass.Checkpointing with
    | Some gathered, _ ->
        // Only the backward pass computes a block with a graph.
        whole (fun () -> gathered.Leave layer) (fun () -> gathered.Enter layer (torch.is_grad_enabled ())) []
    | None, Checkpointing.None -> blockOf pass.Lap config weights rotation rows layer x
    | None, Checkpointing.Selective ->
        use scope = torch.NewDisposeScope()
        let prefix = $"layers.{layer}"
        let mixed = Layers.attentionAgain config weights $"{prefix}.attention" $"{prefix}.attention_norm" rotation rows x
        let after = x.plus mixed
        pass.Lap Phase.Attention
        let read = if config.ParallelResidual then x else after
        let result = after.plus (Layers.feedForwardAgain config weights prefix $"{prefix}.ffn_norm" read)
        pass.Lap Phase.FeedForward
        result.MoveToOuterDisposeScope()
    | None, Checkpointing.Full ->
        whole ignore (fun () -> weights) [ for spec in blockParameters config layer -> weights spec.Name ]

/// The final norm.
let finalNorm (config: ModelConfig) (weights: Weights) (x_BTD: torch.Tensor) : torch.Tensor =
    Layers.norm config.Norm config.NormEpsilon weights "norm" x_BTD

/// The table that turns hidden states into logits: its own, or the embedding table where the model ties them.
let headTable (config: ModelConfig) (weights: Weights) : torch.Tensor =
    weights (if config.Tied then "tok_embeddings.weight" else "output.weight")

/// The rows [first, last) of the head in the parts that are multiplied by themselves, each as its first row and the one after its last.
let headParts (config: ModelConfig) (first: int) (last: int) : (int * int) list =
    let borders = config.ExtendedAt |> List.filter (fun border -> border > first && border < last)
    List.pairwise (first :: borders @ [ last ])

/// Logits over the first `rows` rows of the head; rows that only pad the table get no logit and so no probability. The parts before
/// and after an extension are multiplied by themselves: a product's rounding may depend on its size, and old logits keep their bits.
let head (config: ModelConfig) (weights: Weights) (rows: int) (x_BTD: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    let table = headTable config weights

    let part (first: int, last: int) = Layers.linear (table.narrow (0L, int64 first, int64 (last - first))) x_BTD

    match headParts config 0 rows |> List.map part with
    | [ whole ] -> whole
    | parts -> torch.cat (List.toArray parts, -1L)
    |> _.MoveToOuterDisposeScope()

/// The rotation tables for positions [start, start + length), where the model has any.
let rotation (config: ModelConfig) (weights: Weights) (start: int64) (length: int64) : Rotation option =
    let table = weights "tok_embeddings.weight"
    Layers.rotation config table.device table.dtype start length

/// Hidden states after the final norm of a batch's inputs, x_BTD, or x_ND where its rows are packed; computed as the pass says.
let hiddenBy (pass: Pass) (config: ModelConfig) (weights: Weights) (batch: Batch) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    // Rotation may depend on the length, and padding that was left out is part of it.
    let whole = rotation config weights 0L batch.Length

    let first (positions: int64) = Option.map (Rotary.first positions) whole

    let embed, rotation =
        match batch.Rows with
        | Some rows -> packedEmbed config weights rows, first rows.Positions
        | None -> embed config weights, first batch.Inputs.shape[1]

    let blocks =
        [ 0 .. config.Layers - 1 ] |> List.map (blockBy pass config weights rotation batch.Rows) |> List.fold (>>) id

    let embedded (x: torch.Tensor) =
        pass.Lap Phase.Embedding
        x

    let model = embed >> embedded >> blocks >> finalNorm config weights
    (model batch.Inputs).MoveToOuterDisposeScope()

/// `hiddenBy` with all kept that the gradients need.
let hiddenOf (config: ModelConfig) (weights: Weights) (batch: Batch) : torch.Tensor = hiddenBy plainPass config weights batch

/// Hidden states after the final norm, x_BTD. Errors: ShapeException when tokens are not [B, T] int64.
let hidden (config: ModelConfig) (weights: Weights) (tokens_BT: torch.Tensor) : torch.Tensor =
    Shape.require "tokens" [ -1L; -1L ] tokens_BT
    Shape.requireType "tokens" torch.int64 tokens_BT
    use scope = torch.NewDisposeScope()
    let rotation = rotation config weights 0L tokens_BT.shape[1]
    let blocks = [ 0 .. config.Layers - 1 ] |> List.map (block config weights rotation) |> List.fold (>>) id
    let model = embed config weights >> blocks >> finalNorm config weights
    (model tokens_BT).MoveToOuterDisposeScope()

/// Logits_BTV in the model's element type. `rows` is the count of rows with an id: `Vocabulary.Rows`, or the whole table.
let logits (config: ModelConfig) (rows: int) (weights: Weights) (tokens_BT: torch.Tensor) : torch.Tensor =
    use scope = torch.NewDisposeScope()
    (hidden config weights tokens_BT |> head config weights rows).MoveToOuterDisposeScope()

/// Every parameter of a model, with open_lm's names and initialisation (truncated normal, ±3 deviations).
let parameters (config: ModelConfig) : ParameterSpec list =
    let table name =
        {
            Name = name
            Shape = [ int64 config.Rows; int64 config.Width ]
            Init = TruncatedNormal(1.0 / sqrt (float config.Width))
        }

    [
        table "tok_embeddings.weight"

        if config.Position = LearnedPosition then
            {
                Name = "pos_embeddings.weight"
                Shape = [ int64 config.Positions; int64 config.Width ]
                Init = TruncatedNormal(1.0 / sqrt (float config.Width))
            }

        if config.PostEmbedNorm then
            yield! Layers.normParameters config.Norm "post_embed_norm" config.Width

        for layer in 0 .. config.Layers - 1 do
            yield! blockParameters config layer

        yield! Layers.normParameters config.Norm "norm" config.Width

        if not config.Tied then
            table "output.weight"
    ]

/// Parameters in all.
let parameterCount (config: ModelConfig) : int64 = parameters config |> List.sumBy _.Count
