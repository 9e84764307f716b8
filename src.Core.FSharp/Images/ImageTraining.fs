/// Training an image tokenizer: the loss of a batch, and one step of the network, its codebook and its discriminator.
namespace Hybrid

open System
open TorchSharp

/// What a step measured, over its whole batch.
type ImageStep =
    {
        /// Mean absolute and mean squared error of the reconstruction.
        L1: float
        /// Mean squared error of the reconstruction.
        L2: float
        /// Mean squared distance of the vectors to their codes, before its weight.
        Commitment: float
        /// What the tokenizer minimised of the discriminator's verdict, and the weight that it had; NaN where there was none.
        Generator: float
        /// The weight that the verdict had; NaN where there was none.
        GeneratorWeight: float
        /// The discriminator's hinge loss; NaN where there was none.
        Discriminator: float
        /// The norm of the network's gradient before clipping. Where it is not finite nothing was changed.
        GradientNorm: float
        /// The codes of the batch.
        Codes: CodeUse
    }

    /// Whether the update was left out because the gradient was not finite.
    member step.Skipped = not (Double.IsFinite step.GradientNorm)

/// A square of a picture as a step sees it.
[<Struct>]
type PictureView =
    {
        /// Its left edge, in pixels of the picture as it is kept
        Left: int
        /// Its top edge, in pixels of the picture as it is kept
        Top: int
        /// Left and right change places
        Mirrored: bool
    }

/// Axes: B pictures · C channels · H, W pixels · h, w grid · K codes · N vectors.
module ImageTraining =

    /// The square of side `size` that a training picture of width × height shows at a position of the run: a pure function.
    let view (config: ImageTrainConfig) (position: int64) (width: int) (height: int) : PictureView =
        let stream = Random.ofSeed config.Seed |> Random.named "views" |> Random.numbered position

        let place (axis: int64) (length: int) =
            match config.Crop with
            | CentreCrop -> (length - config.ImageSize) / 2
            | RandomCrop -> Random.below (length - config.ImageSize + 1) stream axis

        {
            Left = place 0L width
            Top = place 1L height
            Mirrored = config.Flip && Random.below 2 stream 2L = 1
        }

    /// How strongly the verdict counts beside the reconstruction, so that both move the last convolution alike (Esser and
    /// others 2021): the ratio of their gradients' norms there, at most 10,000, without graph.
    let adaptiveWeight (last: torch.Tensor) (reconstruction: torch.Tensor) (verdict: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()

        let norm (loss: torch.Tensor) =
            let gradients = torch.autograd.grad ([| loss |], [| last |], retain_graph = true)
            gradients[0].``to``(torch.float32).norm()

        let ratio = norm reconstruction / (norm verdict).plus(1e-4)
        scope.MoveToOuter(ratio.detach().clamp(Scalars.Of 0.0, Scalars.Of 1e4))

    let private optimizer (config: ImageTrainConfig) (clip: float option) (decay: float) : OptimizerConfig =
        {
            Betas = config.Betas
            Epsilon = config.Epsilon
            WeightDecay = decay
            Decay = Parameters.Matrices
            ClipNorm = clip
        }

    // What is added up over the micro-batches of a step.
    [<Literal>]
    let private measured = 6

    /// A micro-batch: adds its gradients, and what it measured to `sums`. Returns its vectors [N, C] and codes [N].
    let private accumulate (state: ImageTrainingState) (adversary: Adversary option) (share: float) sums images_BCHW =
        use scope = torch.NewDisposeScope()
        let config = state.Config
        let images_BCHW: torch.Tensor = images_BCHW
        let weighted (weight: float) (loss: torch.Tensor) = loss.mul (Scalars.Of weight)
        let nothing () = torch.full ([||], Scalars.Of nan, dtype = torch.float32, device = state.Device)
        let mutable fakes_BCHW, vectors_NC, codes_N = images_BCHW, images_BCHW, images_BCHW

        let loss (weights: Weights) : LossValue =
            let z_BChw = ImageTokenizer.vectors state.Tokenizer state.Weights images_BCHW

            let quantised_BChw, straight_BChw, codes_Bhw =
                Codebook.quantise (state.Weights(ImageTokenizer.codebook state.Tokenizer)) z_BChw

            let pictures_BCHW = ImageTokenizer.pictures state.Tokenizer state.Weights straight_BChw
            let difference = pictures_BCHW - images_BCHW
            let l1, l2 = difference.abs().mean(), (difference * difference).mean()
            let commitment = torch.nn.functional.mse_loss (z_BChw, quantised_BChw.detach ())
            let reconstruction = (weighted config.L1 l1).plus(weighted config.L2 l2)
            let objective = reconstruction.plus (weighted config.Commitment commitment)

            let objective =
                if config.Mover = Gradients then
                    let distance = torch.nn.functional.mse_loss (quantised_BChw, z_BChw.detach ())
                    objective.plus (weighted config.CodebookWeight distance)
                else
                    objective

            let objective, verdict, weight =
                match adversary with
                | None -> objective, nothing (), nothing ()
                | Some adversary ->
                    // The discriminator's own weights get no gradient from the tokenizer's loss.
                    let still name = (adversary.Store.Weights name).detach()
                    let verdict = Discriminator.generator (Discriminator.verdicts adversary.Config still pictures_BCHW)

                    let adaptive =
                        if config.Adversarial.Adaptive then
                            adaptiveWeight (weights (ImageTokenizer.lastConvolution state.Tokenizer)) reconstruction verdict
                        else
                            torch.ones ([||], dtype = torch.float32, device = state.Device)

                    let weight = weighted config.Adversarial.Weight adaptive
                    objective.plus (verdict * weight), verdict, weight

            fakes_BCHW <- pictures_BCHW.detach().MoveToOuterDisposeScope()
            vectors_NC <- (Codebook.rows (z_BChw.detach ())).MoveToOuterDisposeScope()
            codes_N <- (codes_Bhw.reshape -1L).MoveToOuterDisposeScope()

            {
                Objective = weighted share objective
                Parts = torch.stack([| l1; l2; commitment; verdict; weight |]).detach()
            }

        let parts = Step.accumulate state.Store state.Moments 1L loss

        let hinge =
            match adversary with
            | None -> nothing ()
            | Some adversary ->
                let loss (weights: Weights) : LossValue =
                    let verdicts = Discriminator.verdicts adversary.Config weights
                    let hinge = Discriminator.hinge (verdicts images_BCHW) (verdicts fakes_BCHW)
                    { Objective = weighted share hinge; Parts = hinge.detach () }

                Step.accumulate adversary.Store adversary.Moments 1L loss

        (sums: torch.Tensor).plus_(weighted share (torch.cat ([| parts; hinge.reshape 1L |], 0L))) |> ignore
        vectors_NC.MoveToOuterDisposeScope(), codes_N.MoveToOuterDisposeScope()

    /// The moving averages' decay after some steps: it rises to the configured one, so that the random start is soon forgotten.
    let averageDecay (config: ImageTrainConfig) (step: int64) : float =
        min config.AverageDecay (float (step + 1L) / float (step + 10L))

    let private follow (state: ImageTrainingState) (step: int64) =
        let decay = averageDecay state.Config step

        for source, average in state.Averages do
            average.mul_(Scalars.Of decay).add_(source.Master, Scalars.Of(1.0 - decay)) |> ignore

    /// One step on micro-batches of pictures, each float32 [B, C, H, W] in [0, 1] on the state's device. `step` is counted from
    /// 0. A gradient that is not finite changes nothing but the count of what was left out.
    let step (state: ImageTrainingState) (step: int) (batches: torch.Tensor list) : ImageStep =
        use _ = torch.NewDisposeScope()
        let config = state.Config
        let pictures = batches |> List.sumBy (fun batch -> batch.shape[0])

        let adversary = state.Adversary |> Option.filter (fun _ -> step >= config.Adversarial.StartStep)

        Step.zero state.Store state.Moments
        state.CodebookMoments |> Option.iter (Step.zero state.Codebook)
        adversary |> Option.iter (fun adversary -> Step.zero adversary.Store adversary.Moments)
        let sums = torch.zeros ([| int64 measured |], dtype = torch.float32, device = state.Device)

        let vectors, codes =
            batches
            |> List.map (fun images -> accumulate state adversary (float images.shape[0] / float pictures) sums images)
            |> List.unzip

        let rate = Schedule.rate config.Schedule step
        let norm = Step.update (optimizer config config.ClipNorm config.WeightDecay) rate state.Store state.Moments

        for adversary in Option.toList adversary do
            let rate =
                match config.Adversarial.LearningRate with
                | Some own when config.Schedule.Peak > 0.0 -> own * rate / config.Schedule.Peak
                | Some own -> own
                | None -> rate

            // Betas of the published ones: a discriminator's gradients turn often.
            let own = { optimizer config config.ClipNorm 0.0 with Betas = (0.5, 0.9) }
            Step.update own rate adversary.Store adversary.Moments |> ignore

        let read = torch.cat([| sums; norm.reshape 1L |], 0L).cpu().data<float32>().ToArray() |> Array.map float
        let codes_N = torch.cat (List.toArray codes, 0L)

        let result =
            {
                L1 = read[0]
                L2 = read[1]
                Commitment = read[2]
                Generator = read[3]
                GeneratorWeight = read[4]
                Discriminator = read[5]
                GradientNorm = read[measured]
                Codes = CodeUse.ofCounts (Codebook.histogram config.Codes codes_N)
            }

        if not result.Skipped then
            use _ = torch.no_grad ()
            let vectors_NC = torch.cat (List.toArray vectors, 0L)
            let stream = Random.named "codebook" state.Stream
            let book = Codebook.state "codebook" state.Codebook.Weights

            match state.CodebookMoments with
            | None -> Codebook.update config.Codebook stream (int64 step) book vectors_NC codes_N
            | Some moments ->
                Step.update (optimizer config None 0.0) rate state.Codebook moments |> ignore
                Codebook.revive config.Codebook stream (int64 step) book.Vectors book.Counts vectors_NC codes_N

            follow state (int64 step)

        result

    /// Rounds of Lloyd's algorithm that place the first codes, and how many vectors a code they look at at most.
    let private rounds, private vectorsPerCode = 10, 16L

    /// Puts the codes on centres of the vectors of some pictures, before the first step. batches: each float32 [B, C, H, W] in
    /// [0, 1]. Errors: ShapeException without a picture.
    let initialiseCodebook (state: ImageTrainingState) (batches: torch.Tensor seq) : unit =
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let codes = int64 state.Config.Codes
        let stream = Random.named "first codes" state.Stream

        let parts =
            [|
                for images in batches do
                    use scope = torch.NewDisposeScope()
                    let z_BChw = ImageTokenizer.vectors state.Tokenizer state.Weights images
                    scope.MoveToOuter(Codebook.rows z_BChw)
            |]

        if parts.Length = 0 then
            raise (ShapeException "the first codes need a picture.")

        let vectors_NC = torch.cat (parts, 0L)
        let rows = vectors_NC.shape[0]
        let wanted = min rows (vectorsPerCode * codes)
        let chosen = Array.init (int wanted) (fun i -> Random.permuted rows (Random.named "rows" stream) (int64 i))
        let chosen_N = torch.tensor (chosen, dtype = torch.int64, device = state.Device)
        let centres_KC = Codebook.kMeans stream rounds codes (vectors_NC.index_select (0L, chosen_N))
        let book = Codebook.state "codebook" state.Codebook.Weights
        // As if every code had had an even share so far.
        let grid = float rows / float (batches |> Seq.sumBy (fun images -> images.shape[0]))
        let evenShare = grid * float state.Config.Pictures / float codes
        book.Vectors.copy_ centres_KC |> ignore
        book.Counts.fill_ (Scalars.Of evenShare) |> ignore
        book.Sums.copy_ (centres_KC.mul (Scalars.Of evenShare)) |> ignore

        for source, average in state.Averages do
            average.copy_ source.Master |> ignore
