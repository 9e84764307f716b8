/// Contrastive alignment of image-token embeddings with frozen text embeddings (the paper's section 4, Fig. 7): each picture and
/// each caption is a bag of words, the mean of its tokens' embeddings, and matching pairs are told from the others of a batch as
/// CLIP does (Radford et al. 2021).
module Hybrid.Alignment

open System
open TorchSharp

/// Start of the log scale: ln(1/0.07).
let initialLogScale: float = Math.Log(1.0 / 0.07)

/// The log scale stays within [0, ln 100].
let largestLogScale: float = Math.Log 100.0

/// One step's values, scalars.
[<NoEquality; NoComparison>]
type Contrast =
    {
        Loss: torch.Tensor
        /// Share of pictures whose own caption is the nearest
        Accuracy: torch.Tensor
    }

/// Token counts of bags as a matrix [N, rows]; entry (i, r) is how often token r occurs in bag i.
let private histogram (rows: int64) (bags: int[][]) =
    let counts = Array.zeroCreate<float32>(bags.Length * int rows)

    bags
    |> Array.iteri (fun i bag ->
        for token in bag do
            if token < 0 || int64 token >= rows then
                raise (InputException $"token {token} of pair {i} is outside the table of {rows} rows.")

            counts[i * int rows + token] <- counts[i * int rows + token] + 1.0f)

    Host.floats [ int64 bags.Length; rows ] counts

/// Mean embedding of each bag, scaled to length 1: [N, D] from a table [R, D]. Errors: InputException for an empty bag or a token
/// outside the table.
let bagOfWords (table_RD: torch.Tensor) (bags: int[][]) : torch.Tensor =
    use scope = torch.NewDisposeScope()

    match bags |> Array.tryFindIndex Array.isEmpty with
    | Some i -> raise (InputException $"pair {i} has no tokens to align.")
    | None -> ()

    // The direction of a mean is that of the sum.
    let sums = (histogram table_RD.shape[0] bags).``to``(table_RD.device).matmul table_RD
    (torch.nn.functional.normalize (sums, 2.0, 1L, 1e-12)).MoveToOuterDisposeScope()

/// The symmetric contrastive loss of N matching pairs: picture i belongs to text i. `logScale` is a scalar.
let contrast (logScale: torch.Tensor) (pictures_ND: torch.Tensor) (texts_ND: torch.Tensor) : Contrast =
    use scope = torch.NewDisposeScope()
    let n = pictures_ND.shape[0]
    let logits = pictures_ND.matmul(texts_ND.t ()).mul(logScale.exp ())
    let own = (Host.int64s [ n ] [| 0L .. n - 1L |]).``to`` logits.device
    let rows = torch.nn.functional.cross_entropy (logits, own)
    let columns = torch.nn.functional.cross_entropy (logits.t (), own)
    let accuracy = logits.detach().argmax(1L).eq(own).``to``(torch.float32).mean()

    {
        Loss = rows.plus(columns).mul(Scalars.Of(0.5)).MoveToOuterDisposeScope()
        Accuracy = accuracy.MoveToOuterDisposeScope()
    }

/// What alignment trains: the image table [codes, D] and the log scale.
let parameters (codes: int64) (width: int64) : ParameterSpec list =
    [
        {
            Name = "image_embeddings"
            Shape = [ codes; width ]
            Init = TruncatedNormal(1.0 / sqrt (float width))
        }
        { Name = "log_scale"; Shape = [ 1L ]; Init = Zeros }
    ]

/// Puts the log scale at its start.
let initialiseScale (store: ParameterStore) : unit =
    use start = Host.floats [ 1L ] [| float32 initialLogScale |]
    Parameters.set store "log_scale" start

/// One step: contrast before the update, then AdamW without decay, then the clamp. The caller owns the result.
let step
    (optimizer: OptimizerConfig)
    (learningRate: float)
    (store: ParameterStore)
    (state: OptimizerState)
    (texts_ND: torch.Tensor)
    (codes: int[][])
    : Contrast =
    use scope = torch.NewDisposeScope()
    Step.zero store state
    let pictures = bagOfWords (store.Weights "image_embeddings") codes
    let value = contrast (store.Weights("log_scale").squeeze()) pictures texts_ND
    value.Loss.backward ()
    Step.update optimizer learningRate store state |> ignore
    use _ = torch.no_grad ()
    let scale = store.MasterOf "log_scale"
    scale.clamp_ (Scalars.Of(0.0), Scalars.Of(largestLogScale)) |> ignore
    scale.Dispose()

    {
        Loss = value.Loss.detach().MoveToOuterDisposeScope()
        Accuracy = value.Accuracy.MoveToOuterDisposeScope()
    }

/// The `count` text rows nearest to each image row by cosine: ids [rows, count] and cosines [rows, count].
let nearest (count: int) (images_RD: torch.Tensor) (texts_VD: torch.Tensor) : torch.Tensor * torch.Tensor =
    use _ = torch.no_grad ()
    use scope = torch.NewDisposeScope()
    let unit (t: torch.Tensor) = torch.nn.functional.normalize (t, 2.0, 1L, 1e-12)
    let struct (cosines, ids) = (unit images_RD).matmul((unit texts_VD).t()).topk(count)
    ids.MoveToOuterDisposeScope(), cosines.MoveToOuterDisposeScope()
