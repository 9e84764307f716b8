/// An image tokenizer in training: what moves, what follows it, and what a run needs to go on.
namespace Hybrid

open System
open TorchSharp

/// A discriminator in training.
[<NoEquality; NoComparison>]
type internal Adversary = { Config: DiscriminatorConfig; Store: ParameterStore; Moments: OptimizerState }

/// A tokenizer in training: weights, codebook, their moving averages, moments, discriminator. It owns its tensors; dispose it to
/// release them.
[<Sealed>]
type ImageTrainingState
    /// Random weights from the seed of the configuration, on a device.
    (config: ImageTrainConfig, device: torch.Device) =
    let tokenizer = ImageTrainConfig.tokenizer config
    let bookName = ImageTokenizer.codebook tokenizer
    let specs = ImageTokenizer.parameters tokenizer
    let book, network = specs |> List.partition (fun spec -> spec.Name = bookName)

    let store = Parameters.allocate config.Precision device Parameters.Matrices (fun _ -> Moves) network

    // The codes' vectors are float32 whatever the network computes in: codes are assigned by them, and they are what is kept.
    let codebook =
        Parameters.allocate
            Fp32
            device
            Parameters.Matrices
            (fun spec -> if config.Mover = Gradients && spec.Name = "codebook.weight" then Moves else Stays)
            (Codebook.parameters "codebook" book.Head.Shape[0] book.Head.Shape[1])

    let adversary =
        ImageTrainConfig.discriminator config
        |> Option.map (fun config ->
            let store =
                Parameters.allocate store.Precision device Parameters.Matrices (fun _ -> Moves) (Discriminator.parameters config)

            { Config = config; Store = store; Moments = new OptimizerState(store) })

    let moments = new OptimizerState(store)

    let bookMoments = if config.Mover = Gradients then Some(new OptimizerState(codebook)) else None

    let averages =
        if config.AverageDecay > 0.0 then
            [ for source in [ store; codebook ] -> source, source.Master.clone().DetachFromDisposeScope() ]
        else
            []

    let stream = Random.ofSeed config.Seed |> Random.named "image tokenizer"

    do
        Parameters.initialise stream store
        adversary |> Option.iter (fun adversary -> Parameters.initialise stream adversary.Store)

        for source, average in averages do
            average.copy_ source.Master |> ignore

    let flat (source: ParameterStore) =
        averages
        |> List.tryPick (fun (owner, average) -> if obj.ReferenceEquals(owner, source) then Some average else None)
        |> Option.defaultValue source.Master

    let optimized prefix (moments: OptimizerState) =
        [
            prefix + ".first", moments.First
            prefix + ".second", moments.Second
            prefix + ".steps", moments.Steps
            prefix + ".skipped", moments.Skipped
        ]

    let tensors =
        [
            "network", store.Master
            yield! optimized "network" moments
            "codebook", codebook.Master
            yield! bookMoments |> Option.toList |> List.collect (optimized "codebook")
            for name, (_, average) in List.zip (List.truncate averages.Length [ "network"; "codebook" ]) averages do
                $"average.{name}", average
            for adversary in Option.toList adversary do
                "discriminator", adversary.Store.Master
                yield! optimized "discriminator" adversary.Moments
        ]

    /// What it was made from.
    member _.Config = config
    /// What the trained network is, for encoding and decoding.
    member _.Tokenizer = tokenizer
    /// Where its tensors are.
    member _.Device = device
    /// The run's random values.
    member _.Stream = stream
    /// The network's weights.
    member _.Store = store
    /// AdamW's, of the network.
    member _.Moments = moments

    /// `codebook.weight`, `.count` and `.sum`, in float32.
    member _.Codebook = codebook

    /// The codebook's moments, where gradients move it.
    member _.CodebookMoments = bookMoments

    /// The flat moving averages with the stores that they follow.
    member _.Averages = averages

    member internal _.Adversary = adversary

    /// The weights of a step: what moves, with gradients.
    member _.Weights: Weights =
        fun name -> if name = bookName then codebook.Weights "codebook.weight" else store.Weights name

    /// Everything that a run needs to go on, by name: flat tensors that belong to this object.
    member _.Tensors: (string * torch.Tensor) list = tensors

    /// What the flat tensors are laid out for; tensors of another layout do not fit.
    member _.Layout: string =
        let slots (store: ParameterStore) =
            store.Slots
            |> List.map (fun slot ->
                let shape = String.Join("x", slot.Spec.Shape)
                $"{slot.Spec.Name}:{shape}:{slot.Movement}")

        [ store; codebook ] @ (adversary |> Option.map _.Store |> Option.toList)
        |> List.collect slots
        |> String.concat ","

    /// Call it after `Tensors` were filled from outside.
    member _.Refresh() : unit =
        store.Refresh()
        adversary |> Option.iter (fun adversary -> adversary.Store.Refresh())

    /// A copy of the tokenizer as it is to be kept: the averaged weights where there are some. In fp32, on the processor; the
    /// caller owns it.
    member _.Snapshot() : ParameterStore =
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let frozen = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Stays) specs

        for spec in specs do
            let source, name = if spec.Name = bookName then codebook, "codebook.weight" else store, spec.Name
            let slot = source.Slots |> List.find (fun slot -> slot.Spec.Name = name)
            let values = (flat source).narrow(0L, slot.Offset, spec.Count).view(List.toArray spec.Shape)
            Parameters.set frozen spec.Name values

        frozen

    interface IDisposable with
        member _.Dispose() =
            for _, average in averages do
                average.Dispose()

            (moments :> IDisposable).Dispose()
            bookMoments |> Option.iter (fun moments -> (moments :> IDisposable).Dispose())

            for adversary in Option.toList adversary do
                (adversary.Moments :> IDisposable).Dispose()
                (adversary.Store :> IDisposable).Dispose()

            (store :> IDisposable).Dispose()
            (codebook :> IDisposable).Dispose()
