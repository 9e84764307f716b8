module Hybrid.Tests.Main

open Expecto

[<EntryPoint>]
let main arguments =
    runTestsWithCLIArgs
        []
        arguments
        (testList
            "all"
            [
                SafeTensorsTests.tests
                TorchFileTests.tests
                NpyTests.tests
                TokenizerTests.tests
                PictureTests.tests
                ShardTests.tests
                PairSourceTests.tests
            ])
