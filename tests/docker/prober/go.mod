module prober

go 1.19
